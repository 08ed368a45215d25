-- What the alerts need beside deploy/postgres/source.sql: former prices, and a table of the stock.
ALTER TABLE inventory.products REPLICA IDENTITY FULL;
CREATE TABLE inventory.stock (
  product_id int PRIMARY KEY REFERENCES inventory.products (id),
  quantity int NOT NULL,
  reorder_level int NOT NULL
);
INSERT INTO inventory.stock SELECT id, 100, 20 FROM inventory.products;
