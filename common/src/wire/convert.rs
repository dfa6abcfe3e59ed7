//! Measures to messages and back. What comes back is checked: a hostile snapshot is refused whole.

use std::collections::BTreeMap;

use crate::stats::{
    ActionStats, CheckStats, CounterStats, DecodeError, Distribution, ErrorKind, Fingerprint, GroupStats,
    Histogram, Layout, LifeStats, LoadStats, Measures, SeriesKey, SeriesKind, StepStats, decode_into, encode,
};
use crate::wire::pb;

/// Why a snapshot is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A histogram that cannot be decoded.
    #[error("{what} of {subject} cannot be read")]
    Histogram {
        /// The quantity.
        what: &'static str,
        /// Which step or load.
        subject: u32,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// The count beside a histogram is not the number of values in it.
    #[error("{what} of {subject} holds {found} values but says {said}")]
    Count {
        /// The quantity.
        what: &'static str,
        /// Which step or load.
        subject: u32,
        /// In the histogram.
        found: u64,
        /// Beside it.
        said: u64,
    },
    /// An index that the plan does not have.
    #[error("{what} {index} is not in the plan")]
    Unknown {
        /// What it indexes.
        what: &'static str,
        /// The index.
        index: u32,
    },
    /// Something is missing.
    #[error("the snapshot has no {0}")]
    Missing(&'static str),
}

/// Writes measures, adding every count of every histogram to the fingerprint.
#[must_use]
pub fn measures_to_wire(measures: &Measures, phase: u32, fingerprint: &mut Fingerprint) -> pb::Delta {
    let mut write = |distribution: &Distribution, subject: u32, kind: SeriesKind| {
        if distribution.is_empty() {
            return None;
        }
        let series = SeriesKey { phase, subject, kind };
        distribution.histogram.buckets().for_each(|(bucket, count)| fingerprint.add(series, bucket, count));
        let mut hdr_v2 = Vec::new();
        encode(&distribution.histogram, &mut hdr_v2);
        Some(pb::Distribution {
            hdr_v2: hdr_v2.into(),
            count: distribution.count,
            sum: distribution.sum,
            min: distribution.min,
            max: distribution.max,
            clamped: distribution.clamped,
        })
    };
    let steps = measures.steps.iter().map(|(&step, stats)| pb::StepDelta {
        step,
        sent: stats.sent,
        ok: stats.ok,
        failed: stats.failed,
        unknown: stats.unknown,
        bytes_sent: stats.bytes_sent,
        bytes_received: stats.bytes_received,
        statuses: stats
            .statuses
            .iter()
            .map(|(status, count)| pb::StatusCount { status: status.into(), count })
            .collect(),
        errors: stats.errors.iter().map(|(kind, count)| pb::KindCount { kind: kind as u32, count }).collect(),
        response_time: write(&stats.response, step, SeriesKind::Response),
        service_time: write(&stats.service, step, SeriesKind::Service),
        connect_time: write(&stats.connect, step, SeriesKind::Connect),
        tls_time: write(&stats.tls, step, SeriesKind::Tls),
        first_byte_time: write(&stats.first_byte, step, SeriesKind::FirstByte),
        cap_wait: write(&stats.cap_wait, step, SeriesKind::CapWait),
        retries: stats.retries,
    });
    let steps = steps.collect();
    let loads = measures.loads.iter().map(|(&load, stats)| pb::LoadDelta {
        load,
        started: stats.started,
        ok: stats.ok,
        failed: stats.failed,
        unknown: stats.unknown,
        dropped: stats.dropped,
        never_started: stats.never_started,
        lateness: write(&stats.lateness, load, SeriesKind::Lateness),
        iteration_time: write(&stats.iteration, load, SeriesKind::Iteration),
    });
    let loads = loads.collect();
    let groups = measures.groups.iter().map(|(&group, stats)| pb::GroupDelta {
        group,
        ok: stats.ok,
        failed: stats.failed,
        unknown: stats.unknown,
        duration: write(&stats.duration, group, SeriesKind::Group),
    });
    let groups = groups.collect();
    let observed = measures.observed.iter().map(|(&observed, values)| pb::ObservedDelta {
        observed,
        values: write(values, observed, SeriesKind::Observed),
    });
    let observed = observed.collect();
    let lives = measures.lives.iter().map(|(&user, stats)| pb::LifeDelta {
        user,
        begun: stats.begun,
        ok: stats.ok,
        failed: stats.failed,
        unknown: stats.unknown,
        duration: write(&stats.duration, user, SeriesKind::Life),
        actions: write(&stats.actions, user, SeriesKind::LifeActions),
        counters: stats
            .counters
            .iter()
            .map(|(&counter, amounts)| pb::LifeCounter {
                counter,
                amounts: write(amounts, life_counter(user, counter), SeriesKind::LifeCounter),
            })
            .collect(),
    });
    let lives = lives.collect();
    pb::Delta { steps, loads, groups, observed, lives, ..counts_to_wire(measures) }
}

/// The subject of a counter of a user type's lives in a series key.
const fn life_counter(user: u32, counter: u32) -> u32 {
    user.wrapping_shl(16) | (counter & 0xFFFF)
}

/// What has no distribution: counters, actions, checks, errors of the scenario.
fn counts_to_wire(measures: &Measures) -> pb::Delta {
    let counter = |(&counter, stats): (&u32, &CounterStats)| pb::CounterDelta {
        counter,
        sum_millionths: stats.sum_millionths,
        count: stats.count,
    };
    let action = |(&action, s): (&u32, &ActionStats)| pb::ActionDelta {
        action,
        chosen: s.chosen,
        ok: s.ok,
        failed: s.failed,
    };
    let check =
        |(&check, s): (&u32, &CheckStats)| pb::CheckDelta { check, passed: s.passed, failed: s.failed };
    pb::Delta {
        counters: measures.counters.iter().map(counter).collect(),
        actions: measures.actions.iter().map(action).collect(),
        checks: measures.checks.iter().map(check).collect(),
        scenario_errors: measures.scenario_errors,
        scenario_error: measures.scenario_error.clone().unwrap_or_default(),
        ..pb::Delta::default()
    }
}

/// Reads measures, adding every count of every histogram to the fingerprint.
///
/// # Errors
/// Where anything in it does not fit the layouts; nothing of it may then be used.
pub fn measures_from_wire(
    delta: &pb::Delta,
    phase: u32,
    fingerprint: &mut Fingerprint,
) -> Result<Measures, SnapshotError> {
    let mut reader = Reader { phase, sum: Fingerprint::default() };
    let mut measures = Measures::default();
    reader.steps(delta, &mut measures)?;
    reader.loads(delta, &mut measures)?;
    reader.others(delta, &mut measures)?;
    counts_from_wire(delta, &mut measures);
    debug_assert!(ErrorKind::ALL.len() < 64, "an index on the wire stays small");
    fingerprint.merge(reader.sum);
    Ok(measures)
}

/// Reads distributions of one phase, adding up their fingerprint.
struct Reader {
    phase: u32,
    sum: Fingerprint,
}

impl Reader {
    fn read(
        &mut self,
        wire: Option<&pb::Distribution>,
        layout: Layout,
        subject: u32,
        kind: SeriesKind,
        what: &'static str,
    ) -> Result<Distribution, SnapshotError> {
        let Some(wire) = wire else { return Ok(Distribution::new(layout)) };
        let series = SeriesKey { phase: self.phase, subject, kind };
        let mut histogram = Histogram::new(layout);
        let sum = &mut self.sum;
        let found = decode_into(&wire.hdr_v2, &mut histogram, |bucket, count| sum.add(series, bucket, count))
            .map_err(|source| SnapshotError::Histogram { what, subject, source })?;
        if found != wire.count {
            return Err(SnapshotError::Count { what, subject, found, said: wire.count });
        }
        let (sum, min, max, clamped) = (wire.sum, wire.min, wire.max, wire.clamped);
        Ok(Distribution { histogram, count: found, sum, min, max, clamped })
    }

    fn steps(&mut self, delta: &pb::Delta, measures: &mut Measures) -> Result<(), SnapshotError> {
        for wire in &delta.steps {
            let mut times = |wire_time: &Option<pb::Distribution>, kind, what| {
                self.read(wire_time.as_ref(), Layout::Times, wire.step, kind, what)
            };
            let mut stats = StepStats {
                sent: wire.sent,
                ok: wire.ok,
                failed: wire.failed,
                unknown: wire.unknown,
                bytes_sent: wire.bytes_sent,
                bytes_received: wire.bytes_received,
                response: times(&wire.response_time, SeriesKind::Response, "response time")?,
                service: times(&wire.service_time, SeriesKind::Service, "service time")?,
                connect: times(&wire.connect_time, SeriesKind::Connect, "connect time")?,
                tls: times(&wire.tls_time, SeriesKind::Tls, "TLS time")?,
                first_byte: times(&wire.first_byte_time, SeriesKind::FirstByte, "first-byte time")?,
                cap_wait: times(&wire.cap_wait, SeriesKind::CapWait, "waiting under a cap")?,
                retries: wire.retries,
                ..StepStats::default()
            };
            for entry in &wire.statuses {
                let status = u16::try_from(entry.status)
                    .ok()
                    .filter(|status| *status < 1_000)
                    .ok_or(SnapshotError::Unknown { what: "status", index: entry.status })?;
                stats.statuses.add(status, entry.count);
            }
            wire.errors.iter().for_each(|entry| stats.errors.add_indexed(entry.kind, entry.count));
            measures.steps.entry(wire.step).or_default().merge(&stats);
        }
        Ok(())
    }

    fn loads(&mut self, delta: &pb::Delta, measures: &mut Measures) -> Result<(), SnapshotError> {
        for wire in &delta.loads {
            let lateness = self.read(
                wire.lateness.as_ref(),
                Layout::Times,
                wire.load,
                SeriesKind::Lateness,
                "lateness",
            )?;
            let iteration = self.read(
                wire.iteration_time.as_ref(),
                Layout::LongTimes,
                wire.load,
                SeriesKind::Iteration,
                "iteration time",
            )?;
            let stats = LoadStats {
                started: wire.started,
                ok: wire.ok,
                failed: wire.failed,
                unknown: wire.unknown,
                dropped: wire.dropped,
                never_started: wire.never_started,
                lateness,
                iteration,
            };
            measures.loads.entry(wire.load).or_default().merge(&stats);
        }
        Ok(())
    }

    /// Groups, observed values, lives.
    fn others(&mut self, delta: &pb::Delta, measures: &mut Measures) -> Result<(), SnapshotError> {
        for wire in &delta.groups {
            let duration = wire.duration.as_ref();
            let stats = GroupStats {
                ok: wire.ok,
                failed: wire.failed,
                unknown: wire.unknown,
                duration: self.read(duration, Layout::Times, wire.group, SeriesKind::Group, "duration")?,
            };
            measures.groups.entry(wire.group).or_default().merge(&stats);
        }
        for wire in &delta.observed {
            let values = self.read(
                wire.values.as_ref(),
                Layout::Values,
                wire.observed,
                SeriesKind::Observed,
                "values",
            )?;
            let own = measures.observed.entry(wire.observed);
            own.or_insert_with(|| Distribution::new(Layout::Values)).merge(&values);
        }
        for wire in &delta.lives {
            let (duration, actions) = (wire.duration.as_ref(), wire.actions.as_ref());
            let mut counters = BTreeMap::new();
            for own in &wire.counters {
                let subject = life_counter(wire.user, own.counter);
                let kind = SeriesKind::LifeCounter;
                let amounts =
                    self.read(own.amounts.as_ref(), Layout::Values, subject, kind, "a counter of lives")?;
                counters.insert(own.counter, amounts);
            }
            let stats = LifeStats {
                begun: wire.begun,
                ok: wire.ok,
                failed: wire.failed,
                unknown: wire.unknown,
                duration: self.read(duration, Layout::LongTimes, wire.user, SeriesKind::Life, "duration")?,
                actions: self.read(actions, Layout::Values, wire.user, SeriesKind::LifeActions, "actions")?,
                counters,
            };
            measures.lives.entry(wire.user).or_default().merge(&stats);
        }
        Ok(())
    }
}

/// The reverse of [`counts_to_wire`].
fn counts_from_wire(delta: &pb::Delta, measures: &mut Measures) {
    measures.counters.extend(
        delta
            .counters
            .iter()
            .map(|c| (c.counter, CounterStats { sum_millionths: c.sum_millionths, count: c.count })),
    );
    measures.actions.extend(
        delta
            .actions
            .iter()
            .map(|a| (a.action, ActionStats { chosen: a.chosen, ok: a.ok, failed: a.failed })),
    );
    measures
        .checks
        .extend(delta.checks.iter().map(|c| (c.check, CheckStats { passed: c.passed, failed: c.failed })));
    measures.scenario_errors = delta.scenario_errors;
    measures.scenario_error =
        (!delta.scenario_error.is_empty()).then(|| delta.scenario_error.chars().take(500).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_measures() -> Measures {
        let mut measures = Measures::default();
        let step = measures.steps.entry(3).or_default();
        step.sent = 5;
        step.ok = 3;
        step.failed = 1;
        step.statuses.add(200, 3);
        step.errors.add(ErrorKind::Timeout);
        [10, 20, 30, 700_000_000].iter().for_each(|&us| step.response.record(us));
        measures.loads.entry(0).or_default().iteration.record(12);
        measures.groups.entry(1).or_default().duration.record(40);
        measures.observed.entry(2).or_insert_with(|| Distribution::new(Layout::Values)).record(1_500);
        let lives = measures.lives.entry(0).or_default();
        (lives.begun, lives.ok) = (2, 1);
        lives.duration.record(30);
        lives.counters.entry(4).or_insert_with(|| Distribution::new(Layout::Values)).record(2_000);
        measures.counters.insert(1, CounterStats { sum_millionths: -5, count: 2 });
        measures.actions.insert(0, ActionStats { chosen: 2, ok: 1, failed: 1 });
        measures.checks.insert(0, CheckStats { passed: 2, failed: 0 });
        measures.scenario_errors = 1;
        measures.scenario_error = Some("x".to_owned());
        measures
    }

    #[test]
    fn the_round_trip_is_the_identity_and_the_fingerprints_agree() {
        let (mut sent, mut received) = (Fingerprint::default(), Fingerprint::default());
        let measures = some_measures();
        let wire = measures_to_wire(&measures, 2, &mut sent);
        assert_eq!(measures_from_wire(&wire, 2, &mut received), Ok(measures));
        assert_eq!(sent, received);
        assert_ne!(sent, Fingerprint::default());
    }

    #[test]
    fn a_damaged_snapshot_is_refused_whole() {
        let mut wire = measures_to_wire(&some_measures(), 0, &mut Fingerprint::default());
        let mut sum = Fingerprint::default();
        wire.steps[0].response_time.as_mut().unwrap().count += 1;
        assert!(matches!(
            measures_from_wire(&wire, 0, &mut sum),
            Err(SnapshotError::Count { found: 4, said: 5, .. })
        ));
        assert_eq!(sum, Fingerprint::default());
        wire.steps[0].statuses[0].status = 70_000;
        wire.steps[0].response_time = None;
        assert!(matches!(
            measures_from_wire(&wire, 0, &mut sum),
            Err(SnapshotError::Unknown { what: "status", .. })
        ));
    }
}
