"""A mixed load by SQL: inserts, updates, deletes, changed primary keys, transactions over several tables, rollbacks."""

import random
import string
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg2.extensions import connection, cursor
from psycopg2.extras import Json, execute_values

from .background import Background
from .source import Source

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


class MixedLoad(Background):
    """Makes `total` row changes, spread over about `seconds`. `changes` counts what was committed.

    Reproducible by `seed` as far as the statements go; how they meet firn's commits is up to the machine.
    """

    def __init__(self, source: Source, total: int, seconds: float, seed: int) -> None:
        super().__init__("mixed-load")
        self.source = source
        self.total = total
        self.seconds = seconds
        self.luck = random.Random(seed)
        self.changes = 0
        self.customers: list[int] = []
        self.products: list[int] = []
        self.orders: list[int] = []
        self.content: list[str] = []
        self.serial = 0

    def work(self) -> None:
        opened = self.source.connect()
        opened.autocommit = False
        kinds: list[Callable[[cursor], int]] = [
            self.new_order, self.new_order, self.advance_orders, self.advance_orders, self.drop_order, self.move_line, self.new_customer,
            self.edit_customer, self.move_address, self.drop_address, self.new_product, self.reprice, self.move_product, self.new_content,
            self.edit_content, self.play, self.play, self.play, self.edit_events, self.drop_events, self.move_event,
        ]  # fmt: skip
        began = time.monotonic()
        with opened.cursor() as c:
            for names, table in ((self.customers, "inventory.customers"), (self.products, "inventory.products"), (self.orders, "inventory.orders"), (self.content, "public.content")):
                c.execute(f"SELECT id FROM {table} ORDER BY id")
                names.extend(row[0] for row in c.fetchall())
        while self.changes < self.total:
            self.changes += self._transaction(opened, kinds)
            ahead = self.seconds * self.changes / self.total - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(min(ahead, 1.0))
        opened.close()

    def _transaction(self, opened: connection, kinds: list[Callable[[cursor], int]]) -> int:
        """One to six steps; one in twenty-five is rolled back and must leave no trace."""
        kept = {name: list(getattr(self, name)) for name in ("customers", "products", "orders", "content")}
        with opened.cursor() as c:
            made = sum(self.luck.choice(kinds)(c) for _ in range(self.luck.randint(1, 6)))
        if self.luck.random() < 0.04:
            opened.rollback()
            for name, rows in kept.items():
                setattr(self, name, rows)
            return 0
        opened.commit()
        return made

    def text(self, longest: int) -> str:
        alphabet = string.ascii_letters + "  '\"\\,;äßé雪🙂\t\n"
        return "".join(self.luck.choices(alphabet, k=self.luck.randint(0, longest)))

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def money(self, below: int) -> Decimal:
        return Decimal(self.luck.randrange(0, below * 100)) / 100

    def moment(self) -> datetime:
        return EPOCH + timedelta(microseconds=self.luck.randrange(0, 60_000_000_000_000))

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.luck.getrandbits(128), version=4))

    def document(self) -> Json | None:
        return self.luck.choice([None, Json({}), Json({"tags": [self.text(8), None, 1.50], "n": self.luck.random()})])

    def one(self, c: cursor, statement: str, *arguments: Any) -> Any:
        c.execute(statement, arguments)
        row = c.fetchone()
        return row[0] if row else None

    def some(self, c: cursor, table: str, columns: str = "id") -> Any:
        """A row chosen by chance, None in an empty table. By position, so that the seed decides and not PostgreSQL."""
        count = self.one(c, f"SELECT count(*) FROM {table}")
        if not count:
            return None
        c.execute(f"SELECT {columns} FROM {table} ORDER BY {columns} OFFSET %s LIMIT 1", (self.luck.randrange(count),))
        return c.fetchone()

    def new_order(self, c: cursor) -> int:
        lines = [(self.luck.choice(self.products), self.luck.randint(1, 9), self.money(500)) for _ in range(self.luck.randint(1, 5))]
        order = self.one(
            c,
            "INSERT INTO inventory.orders (order_number, customer_id, status, order_date, total, placed_at, updated_at)"
            " VALUES (%s, %s, 'NEW', %s, %s, %s, %s) RETURNING id",
            self.uuid(), self.luck.choice(self.customers), self.moment().date(), self.money(9_000_000),
            self.moment().replace(tzinfo=None), self.luck.choice([None, self.moment()]),
        )  # fmt: skip
        execute_values(c, "INSERT INTO inventory.order_items VALUES %s", [(order, n, *line) for n, line in enumerate(lines, 1)])
        self.orders.append(order)
        return 1 + len(lines)

    def advance_orders(self, c: cursor) -> int:
        chosen = self.luck.sample(self.orders, min(len(self.orders), self.luck.randint(1, 8)))
        status = self.luck.choice(["PAID", "SHIPPED", "RETURNED"])
        c.execute("UPDATE inventory.orders SET status = %s, total = total + 0.01, updated_at = %s WHERE id = ANY(%s)", (status, self.moment(), chosen))
        return c.rowcount

    def drop_order(self, c: cursor) -> int:
        if len(self.orders) < 10:
            return 0
        order = self.orders.pop(self.luck.randrange(len(self.orders)))
        lines = self.one(c, "SELECT count(*) FROM inventory.order_items WHERE order_id = %s", order)
        c.execute("DELETE FROM inventory.orders WHERE id = %s", (order,))  # its lines go by the foreign key's cascade
        return 1 + lines

    def move_line(self, c: cursor) -> int:
        """A changed composite key: line numbers go up by hundreds."""
        order = self.luck.choice(self.orders)
        line = self.one(c, "SELECT min(line_no) FROM inventory.order_items WHERE order_id = %s", order)
        c.execute("UPDATE inventory.order_items SET line_no = line_no + %s WHERE order_id = %s AND line_no = %s", (100 * self.number(), order, line))
        return c.rowcount

    def new_customer(self, c: cursor) -> int:
        n = self.number()
        customer = self.one(
            c, "INSERT INTO inventory.customers (first_name, last_name, email, created_at) VALUES (%s, %s, %s, %s) RETURNING id",
            self.text(30), self.text(30), f"c{n}@e2e.example", self.moment(),
        )  # fmt: skip
        self.customers.append(customer)
        place = (customer, self.text(40), self.text(20), self.luck.choice([None, "Texas"]), self.luck.choice([None, "0123"]), self.luck.choice(["SHIPPING", "BILLING", "LIVING"]))
        c.execute("INSERT INTO inventory.addresses (customer_id, street, city, state, zip, type) VALUES %s", (place,))
        return 2

    def edit_customer(self, c: cursor) -> int:
        c.execute("UPDATE inventory.customers SET last_name = %s WHERE id = %s", (self.text(60), self.luck.choice(self.customers)))
        return c.rowcount

    def move_address(self, c: cursor) -> int:
        address = self.some(c, "inventory.addresses")
        c.execute("UPDATE inventory.addresses SET id = nextval('inventory.addresses_id_seq'), zip = %s WHERE id = %s", (str(self.number()), address))
        return c.rowcount

    def drop_address(self, c: cursor) -> int:
        c.execute("DELETE FROM inventory.addresses WHERE id = %s", (self.some(c, "inventory.addresses"),))
        return c.rowcount

    def new_product(self, c: cursor) -> int:
        product = self.one(
            c, "INSERT INTO inventory.products (sku, name, description, weight, price, attributes) VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
            f"E2E-{self.number()}", self.text(40), self.luck.choice([None, self.text(900)]), self.luck.choice([None, 0.1, self.luck.random() * 1e9]),
            self.money(90_000_000), self.document(),
        )  # fmt: skip
        self.products.append(product)
        return 1

    def reprice(self, c: cursor) -> int:
        chosen = self.luck.sample(self.products, min(len(self.products), self.luck.randint(1, 12)))
        c.execute("UPDATE inventory.products SET price = %s, attributes = %s WHERE id = ANY(%s)", (self.money(90_000_000), self.document(), chosen))
        return c.rowcount

    def move_product(self, c: cursor) -> int:
        """A new product's key changes before anything refers to it: created, changed and moved in one transaction."""
        n = self.number()
        product = self.one(c, "INSERT INTO inventory.products (sku, name, price) VALUES (%s, 'moved', 1) RETURNING id", f"MOVED-{n}")
        moved = self.one(c, "UPDATE inventory.products SET id = nextval('inventory.products_id_seq') WHERE id = %s RETURNING id", product)
        c.execute("UPDATE inventory.products SET price = price * 2 WHERE id = %s", (moved,))
        self.products.append(moved)
        return 3

    def new_content(self, c: cursor) -> int:
        key, n = self.uuid(), self.number()
        c.execute(
            "INSERT INTO public.content VALUES (%s, %s, %s, %s, %s, %s)",
            (key, f"slug-{n}", self.text(80), self.luck.choice(["podcast", "newsletter", "video", None]), self.luck.choice([None, n]), self.moment()),
        )
        self.content.append(key)
        return 1

    def edit_content(self, c: cursor) -> int:
        c.execute("UPDATE public.content SET title = %s, publish_ts = %s WHERE id = %s", (self.text(80), self.moment(), self.luck.choice(self.content)))
        return c.rowcount

    def play(self, c: cursor) -> int:
        rows = [
            (self.luck.choice(self.content), self.uuid(), self.luck.choice(["play", "pause", "finish", "click"]), self.moment(),
             self.luck.choice([None, self.luck.randrange(2**31)]), self.luck.choice([None, "ios", "web-chrome", self.text(12)]), self.document())
            for _ in range(self.luck.randint(3, 25))
        ]  # fmt: skip
        execute_values(c, "INSERT INTO public.engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload) VALUES %s", rows)
        return len(rows)

    def edit_events(self, c: cursor) -> int:
        first = self.some(c, "public.engagement_events") or (0,)
        c.execute("UPDATE public.engagement_events SET duration_ms = %s WHERE id BETWEEN %s AND %s", (self.number(), first[0], first[0] + 10))
        return c.rowcount

    def drop_events(self, c: cursor) -> int:
        first = self.some(c, "public.engagement_events") or (0,)
        c.execute("DELETE FROM public.engagement_events WHERE id BETWEEN %s AND %s", (first[0], first[0] + 6))
        return c.rowcount

    def move_event(self, c: cursor) -> int:
        event = self.some(c, "public.engagement_events")
        c.execute("UPDATE public.engagement_events SET id = nextval('public.engagement_events_id_seq') WHERE id = %s", (event,))
        return c.rowcount
