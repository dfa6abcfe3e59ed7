//! The file.

use std::path::Path;

use loadgrid_common::id::RunId;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{EndedRun, FORMAT, NewRun, StoreError, StoredRun};
use crate::ingest::Fold;

pub(super) struct Database {
    connection: Connection,
}

const SCHEMA: &str = "
create table runs (
    run text primary key, scenario text not null, started_at text not null, plan_hash text not null,
    scenario_text text not null, state text not null, exit_code integer, duration_ns integer not null default 0,
    report text
) strict;
create table folds (
    run text not null references runs (run), number integer not null, phase integer not null, delta blob not null,
    primary key (run, number, phase)
) strict, without rowid;
create table committed (
    run text not null references runs (run), worker text not null, incarnation text not null, seq integer not null,
    primary key (run, worker, incarnation)
) strict, without rowid;
";

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "busy_timeout", 5_000)?;
        let found: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
        match found {
            FORMAT => {}
            0 => {
                connection
                    .execute_batch(&format!("begin; {SCHEMA} pragma user_version = {FORMAT}; commit;"))?;
            }
            found => return Err(StoreError::Newer { found }),
        }
        Ok(Self { connection })
    }

    pub(super) fn create(&self, run: &NewRun) -> Result<(), StoreError> {
        self.connection.execute(
            "insert into runs (run, scenario, started_at, plan_hash, scenario_text, state) values (?, ?, ?, ?, ?, 'live')",
            params![run.run.as_str(), run.scenario, run.started_at, run.plan_hash, run.scenario_text],
        )?;
        Ok(())
    }

    pub(super) fn commit(&mut self, run: &RunId, fold: &Fold) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "insert into folds (run, number, phase, delta)
                 values (?1, (select coalesce(max(number), 0) + 1 from folds where run = ?1 and phase = ?2), ?2, ?3)",
            )?;
            for (phase, delta) in fold.deltas() {
                insert.execute(params![run.as_str(), phase, delta.encode_to_vec()])?;
            }
            let mut upsert = transaction.prepare_cached(
                "insert into committed (run, worker, incarnation, seq) values (?, ?, ?, ?)
                 on conflict (run, worker, incarnation) do update set seq = max(seq, excluded.seq)",
            )?;
            for (worker, incarnation, seq) in &fold.committed {
                upsert.execute(params![
                    run.as_str(),
                    worker.as_str(),
                    incarnation.to_string(),
                    seq.cast_signed()
                ])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn end(&self, run: &EndedRun) -> Result<(), StoreError> {
        self.connection.execute(
            "update runs set state = ?, exit_code = ?, duration_ns = ?, report = ? where run = ?",
            params![
                run.outcome,
                run.exit_code,
                run.duration_ns.cast_signed(),
                run.report_json,
                run.run.as_str()
            ],
        )?;
        Ok(())
    }

    pub(super) fn list(&self) -> Result<Vec<StoredRun>, StoreError> {
        let mut query = self
            .connection
            .prepare_cached("select run, scenario, started_at, state, exit_code, duration_ns from runs order by run desc limit 1000")?;
        let rows = query.query_map([], |row| {
            Ok(StoredRun {
                run: RunId::from(row.get::<_, String>(0)?),
                scenario: row.get(1)?,
                started_at: row.get(2)?,
                state: row.get(3)?,
                exit_code: row.get(4)?,
                duration_ns: row.get::<_, i64>(5)?.cast_unsigned(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn report(&self, run: &RunId) -> Result<Option<String>, StoreError> {
        let mut query = self.connection.prepare_cached(
            "select report from runs where substr(run, 1, length(?1)) = ?1 order by run desc limit 1",
        )?;
        Ok(query.query_row([run.as_str()], |row| row.get::<_, Option<String>>(0)).optional()?.flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> NewRun {
        NewRun {
            run: name.into(),
            scenario: "s".to_owned(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            plan_hash: String::new(),
            scenario_text: String::new(),
        }
    }

    #[test]
    fn runs_are_kept_and_newer_files_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runs.db");
        let mut database = Database::open(&path).unwrap();
        database.create(&run("a1")).unwrap();
        database.create(&run("b2")).unwrap();
        database.commit(&"a1".into(), &Fold::default()).unwrap();
        let ended = EndedRun {
            run: "a1".into(),
            outcome: "passed".to_owned(),
            exit_code: 0,
            duration_ns: 5,
            report_json: "{}".to_owned(),
        };
        database.end(&ended).unwrap();
        drop(database);
        let database = Database::open(&path).unwrap();
        let states: Vec<_> =
            database.list().unwrap().into_iter().map(|run| (run.run.to_string(), run.state)).collect();
        assert_eq!(states, [("b2".to_owned(), "live".to_owned()), ("a1".to_owned(), "passed".to_owned())]);
        assert_eq!(database.report(&"a".into()).unwrap().as_deref(), Some("{}"));
        assert_eq!(database.report(&"zz".into()).unwrap(), None);
        database.connection.pragma_update(None, "user_version", 99).unwrap();
        drop(database);
        assert!(matches!(Database::open(&path), Err(StoreError::Newer { found: 99 })));
    }
}
