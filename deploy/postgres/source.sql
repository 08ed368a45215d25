-- The source tables with a few rows. Run once, in the source database or in a test's own one:
--   deploy/native/stack psql -c 'CREATE DATABASE mine' && deploy/native/stack psql -d mine -f deploy/postgres/source.sql
SET ROLE cdc;

CREATE SCHEMA inventory;
CREATE TABLE inventory.customers (
  id serial PRIMARY KEY,
  first_name varchar(255) NOT NULL,
  last_name varchar(255) NOT NULL,
  email varchar(255) NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE inventory.addresses (
  id serial PRIMARY KEY,
  customer_id int NOT NULL REFERENCES inventory.customers (id),
  street varchar(255) NOT NULL,
  city varchar(120) NOT NULL,
  state varchar(60),
  zip varchar(20),
  type varchar(20) NOT NULL CHECK (type IN ('SHIPPING', 'BILLING', 'LIVING'))
);
CREATE TABLE inventory.products (
  id serial PRIMARY KEY,
  sku varchar(40) NOT NULL UNIQUE,
  name varchar(255) NOT NULL,
  description text,
  weight double precision,
  price numeric(10, 2) NOT NULL,
  attributes jsonb
);
CREATE TABLE inventory.orders (
  id bigserial PRIMARY KEY,
  order_number uuid NOT NULL,
  customer_id int NOT NULL REFERENCES inventory.customers (id),
  status varchar(20) NOT NULL,
  order_date date NOT NULL,
  total numeric(12, 2) NOT NULL,
  placed_at timestamp(3) NOT NULL,
  updated_at timestamptz
);
CREATE TABLE inventory.order_items (
  order_id bigint NOT NULL REFERENCES inventory.orders (id) ON DELETE CASCADE,
  line_no int NOT NULL,
  product_id int NOT NULL REFERENCES inventory.products (id),
  quantity int NOT NULL,
  unit_price numeric(10, 2) NOT NULL,
  PRIMARY KEY (order_id, line_no)
);
-- The others keep the default replica identity: both kinds of "before" image occur.
ALTER TABLE inventory.orders REPLICA IDENTITY FULL;

INSERT INTO inventory.customers (first_name, last_name, email) VALUES
  ('Sally', 'Thomas', 'sally.thomas@acme.example'), ('George', 'Bailey', 'gbailey@foobar.example'),
  ('Edward', 'Walker', 'ed@walker.example'), ('Anne', 'Kretchmar', 'annek@noanswer.example');
INSERT INTO inventory.addresses (customer_id, street, city, state, zip, type) VALUES
  (1, '3183 Moore Avenue', 'Euless', 'Texas', '76036', 'SHIPPING'),
  (1, '2389 Hidden Valley Road', 'Harrisburg', 'Pennsylvania', '17116', 'BILLING'),
  (2, '281 Riverside Drive', 'Augusta', 'Georgia', '30901', 'BILLING'),
  (3, '3787 Brownton Road', 'Columbus', 'Mississippi', '39701', 'SHIPPING');
INSERT INTO inventory.products (sku, name, description, weight, price, attributes) VALUES
  ('SC-1', 'scooter', 'Small 2-wheel scooter', 3.14, 129.99, '{"colour": "red", "wheels": 2}'),
  ('CB-1', 'car battery', '12V car battery', 8.1, 89.50, NULL),
  ('DB-1', '12-pack drill bits', NULL, 0.8, 19.00, '{"sizes": [3, 4, 5]}'),
  ('HM-1', 'hammer', '14oz carpenter''s hammer', 0.875, 12.25, '{}'),
  ('RK-1', 'rocks', 'box of assorted rocks', 5.3, 0.01, NULL);
INSERT INTO inventory.orders (order_number, customer_id, status, order_date, total, placed_at) VALUES
  ('11111111-1111-4111-8111-111111111111', 1, 'NEW', '2024-05-02', 259.98, '2024-05-02 09:30:00.125'),
  ('22222222-2222-4222-8222-222222222222', 2, 'SHIPPED', '2024-05-03', 101.75, '2024-05-03 23:59:59.999');
INSERT INTO inventory.order_items VALUES (1, 1, 1, 2, 129.99), (2, 1, 2, 1, 89.50), (2, 2, 4, 1, 12.25);

CREATE TABLE public.content (
  id uuid PRIMARY KEY,
  slug text UNIQUE NOT NULL,
  title text NOT NULL,
  content_type text CHECK (content_type IN ('podcast', 'newsletter', 'video')),
  length_seconds integer,
  publish_ts timestamptz NOT NULL
);
CREATE TABLE public.engagement_events (
  id bigserial PRIMARY KEY,
  content_id uuid REFERENCES public.content (id),
  user_id uuid,
  event_type text CHECK (event_type IN ('play', 'pause', 'finish', 'click')),
  event_ts timestamptz NOT NULL,
  duration_ms integer,
  device text,
  raw_payload jsonb
);
INSERT INTO public.content VALUES
  ('52e6b438-f2a7-4269-8651-0c5ca6a3a450', 'cold-start', 'Cold start', 'podcast', 356, '2024-01-10 00:30:00+00'),
  ('d23f0824-892f-4181-85d9-0ed99531985d', 'weekly-1', 'Weekly, no. 1', 'newsletter', NULL, '2024-02-11 01:30:00.000083+00'),
  ('e8e25d94-81e7-436f-8099-6f031600a35a', 'ice-cores', 'Ice cores', 'video', 1772, '2024-03-12 02:30:00.000166+00');
INSERT INTO public.engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload) VALUES
  ('52e6b438-f2a7-4269-8651-0c5ca6a3a450', '2a3af4d4-c1d3-4579-826e-7d2ceeeacbe2', 'play', '2024-10-01 00:00:41.60602+00', 41000, 'ios', NULL),
  ('d23f0824-892f-4181-85d9-0ed99531985d', '57124242-b1fe-459a-8982-94747f26144b', 'click', '2024-10-01 00:01:22.176211+00', NULL, 'web-chrome', '{}'),
  ('e8e25d94-81e7-436f-8099-6f031600a35a', 'c7a2ea20-3e7d-414f-8930-86734cdd2055', 'finish', '2024-10-01 00:03:10.471007+00', 1618326, NULL, '{"ratio": 4.50, "tags": ["a", null]}');

-- For cohort retention.
CREATE TABLE public.user_activity (
  user_id bigint NOT NULL,
  signup_time timestamptz NOT NULL,
  activity_time timestamptz NOT NULL,
  PRIMARY KEY (user_id, activity_time)
);
INSERT INTO public.user_activity VALUES
  (1, '2024-05-01 08:00:00+00', '2024-05-01 08:05:00+00'), (1, '2024-05-01 08:00:00+00', '2024-05-02 19:00:00+00'),
  (2, '2024-05-01 09:30:00+00', '2024-05-01 09:31:00+00'), (3, '2024-05-02 10:00:00+00', '2024-05-04 11:00:00+00');

-- Debezium's commands arrive here (an incremental snapshot, say). In a schema of its own, so that a topic pattern for the
-- inventory doesn't take it for data.
CREATE SCHEMA debezium;
CREATE TABLE debezium.signal (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data varchar(2048));
RESET ROLE;
