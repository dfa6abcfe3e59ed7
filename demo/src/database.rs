//! The shop's data: SQLite in a temporary file.

use std::path::Path;
use std::sync::Mutex;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::{Value, json};

/// Products that are seeded.
pub(crate) const PRODUCTS: u64 = 200;
const PAGE: u64 = 20;

/// One connection; the demo serves on one thread, so the lock is never waited for.
#[derive(Debug)]
pub(crate) struct Database {
    connection: Mutex<Connection>,
}

type Result<T> = std::result::Result<T, rusqlite::Error>;

impl Database {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "off")?;
        connection.execute_batch(
            "create table products (id integer primary key, sku text, name text, price integer) strict;
             create table orders (id integer primary key, user integer, note text, total integer) strict;
             create table carts (id integer primary key, user integer, product text, quantity integer) strict;
             create table profiles (user integer primary key, name text) strict;
             create table employees (id integer primary key, name text, role text) strict;
             create table clock (id integer primary key, employee integer) strict;",
        )?;
        let mut database = Self { connection: Mutex::new(connection) };
        database.seed()?;
        Ok(database)
    }

    fn seed(&mut self) -> Result<()> {
        let connection = self.connection.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let transaction = connection.transaction()?;
        for id in 1..=PRODUCTS {
            transaction.execute(
                "insert into products values (?, ?, ?, ?)",
                params![
                    id.cast_signed(),
                    format!("SKU-{id:04}"),
                    format!("Product {id}"),
                    (id * 37 % 5_000 + 99).cast_signed()
                ],
            )?;
        }
        for id in 1..=25_i64 {
            let role = if id % 5 == 0 { "manager" } else { "cashier" };
            transaction.execute(
                "insert into employees values (?, ?, ?)",
                params![id, format!("Employee {id}"), role],
            )?;
        }
        transaction.commit()
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(crate) fn products(&self, page: u64) -> Result<Value> {
        let page = (page.max(1) - 1) % PRODUCTS.div_ceil(PAGE);
        self.with(|connection| {
            let mut query = connection
                .prepare_cached("select id, sku, name, price from products order by id limit ? offset ?")?;
            let rows = query.query_map([PAGE.cast_signed(), (page * PAGE).cast_signed()], product)?;
            Ok(json!({ "page": page + 1, "items": rows.collect::<Result<Vec<_>>>()? }))
        })
    }

    pub(crate) fn product(&self, id: i64) -> Result<Option<Value>> {
        self.with(|connection| {
            let mut query =
                connection.prepare_cached("select id, sku, name, price from products where id = ?")?;
            query.query_row([id], product).optional()
        })
    }

    pub(crate) fn orders(&self, user: i64) -> Result<Value> {
        self.with(|connection| {
            let mut query = connection.prepare_cached(
                "select id, user, note, total from orders where user = ? order by id desc limit 20",
            )?;
            let rows = query.query_map([user], order)?;
            Ok(json!({ "items": rows.collect::<Result<Vec<_>>>()? }))
        })
    }

    pub(crate) fn order(&self, id: i64) -> Result<Option<Value>> {
        self.with(|connection| {
            let mut query =
                connection.prepare_cached("select id, user, note, total from orders where id = ?")?;
            query.query_row([id], order).optional()
        })
    }

    pub(crate) fn place_order(&self, user: i64, note: &str) -> Result<Value> {
        self.with(|connection| {
            let total = 1_000 + i64::try_from(note.len()).unwrap_or(0) * 10;
            connection
                .prepare_cached("insert into orders (user, note, total) values (?, ?, ?)")?
                .execute(params![user, note, total])?;
            Ok(json!({ "id": connection.last_insert_rowid(), "user": user, "note": note, "total": total, "state": "ready" }))
        })
    }

    pub(crate) fn add_to_cart(&self, user: i64, product: &str, quantity: i64) -> Result<Value> {
        self.with(|connection| {
            connection
                .prepare_cached("insert into carts (user, product, quantity) values (?, ?, ?)")?
                .execute(params![user, product, quantity])?;
            Ok(json!({ "id": connection.last_insert_rowid(), "user": user, "product": product, "quantity": quantity }))
        })
    }

    pub(crate) fn set_profile(&self, user: i64, name: &str) -> Result<Value> {
        self.with(|connection| {
            connection
                .prepare_cached("insert or replace into profiles values (?, ?)")?
                .execute(params![user, name])?;
            Ok(json!({ "user": user, "name": name }))
        })
    }

    pub(crate) fn employees(&self) -> Result<Value> {
        self.with(|connection| {
            let mut query = connection.prepare_cached("select id, name, role from employees order by id")?;
            let rows = query.query_map([], |row| {
                Ok(json!({ "id": row.get::<_, i64>(0)?, "name": row.get::<_, String>(1)?, "role": row.get::<_, String>(2)? }))
            })?;
            Ok(json!({ "items": rows.collect::<Result<Vec<_>>>()? }))
        })
    }

    pub(crate) fn clock_in(&self, employee: i64) -> Result<Value> {
        self.with(|connection| {
            connection.prepare_cached("insert into clock (employee) values (?)")?.execute([employee])?;
            Ok(json!({ "id": connection.last_insert_rowid(), "employee": employee }))
        })
    }
}

fn product(row: &rusqlite::Row<'_>) -> Result<Value> {
    Ok(
        json!({ "id": row.get::<_, i64>(0)?, "sku": row.get::<_, String>(1)?, "name": row.get::<_, String>(2)?, "price": row.get::<_, i64>(3)? }),
    )
}

fn order(row: &rusqlite::Row<'_>) -> Result<Value> {
    Ok(
        json!({ "id": row.get::<_, i64>(0)?, "user": row.get::<_, i64>(1)?, "note": row.get::<_, String>(2)?, "total": row.get::<_, i64>(3)?, "state": "ready" }),
    )
}
