//! Phases and their loads, as written.

#![expect(clippy::allow_attributes, reason = "a macro cannot know which of the fields it declares are read")]

use crate::scenario::decode::{Count, Duration, Factor, Name, Quantity, Rate, Text, mapping, verbs, words};
use crate::scenario::problem::{Sink, Span};
use crate::scenario::tree::Node;

mapping! {
    /// A phase: a stretch of the test with its own figures.
    struct Phase {
        /// Its name.
        required name: Name,
        /// Its loads; they run at the same time.
        required load: Vec<Load>,
        /// A pause before it.
        optional settle: Quantity<Duration>,
        /// Whether its figures belong to the totals; `false` for a warm-up.
        optional record: bool,
        /// The phase before, whose users live on: with their variables, cookies and connections.
        optional continues: Text,
        /// How long iterations under way may go on after its end; 30s where absent.
        optional graceful_stop: Quantity<Duration>,
        /// `always`, or `manual`: only with `--with NAME`.
        optional when: When,
    }
    later &["marks"]
}

words! {
    /// When a phase is carried out.
    enum When { "always" => Always, "manual" => Manual, }
}

verbs! {
    /// A load: users of one type under an executor.
    enum Load, "a load" {
        /// A fixed number of virtual users.
        "constant-vus" => ConstantVus(ConstantVus),
        /// A number of virtual users that changes over time.
        "ramping-vus" => RampingVus(RampingVus),
        /// Arrivals at a fixed rate, whatever the target does.
        "constant-arrival-rate" => ConstantRate(ConstantRate),
        /// Arrivals at a rate that changes over time.
        "ramping-arrival-rate" => RampingRate(RampingRate),
        /// A number of iterations for each virtual user.
        "per-vu-iterations" => PerVu(PerVu),
        /// A number of iterations that all virtual users share.
        "shared-iterations" => SharedIterations(SharedIterations),
        /// A base rate with bursts.
        "burst" => Burst(Burst),
        /// All virtual users at one instant, once.
        "at-once" => AtOnce(AtOnce),
        /// Virtual users that take turns at a fixed pace or total rate.
        "paced" => Paced(Paced),
    }
    later &["capacity-search", "externally-controlled"]
}

mapping! {
    /// A number of iterations for each virtual user.
    struct PerVu {
        /// The type of user.
        optional user: Text,
        /// How many, for the whole grid.
        required vus: Quantity<Count>,
        /// Iterations of each.
        required iterations: Quantity<Count>,
        /// The longest time it may take; 10m where absent. What was not started then is not.
        optional max_duration: Quantity<Duration>,
        /// `any`: side by side; `sequential`: one user after the other, in the order of their indices.
        optional order: Order,
    }
}

words! {
    /// In which order users go.
    enum Order { "any" => Any, "sequential" => Sequential, }
}

mapping! {
    /// A number of iterations that all virtual users share: a slow worker holds nothing back.
    struct SharedIterations {
        /// The type of user.
        optional user: Text,
        /// How many users, for the whole grid.
        required vus: Quantity<Count>,
        /// Iterations of all of them together.
        required iterations: Quantity<Count>,
        /// The longest time it may take; 10m where absent.
        optional max_duration: Quantity<Duration>,
    }
}

mapping! {
    /// A base rate with bursts. Each period is: base, burst, base again, the stretches of base equally long.
    struct Burst {
        /// The type of user.
        optional user: Text,
        /// Arrivals per time between bursts.
        required base: Quantity<Rate>,
        /// How many times the base rate a burst has.
        required factor: Quantity<Factor>,
        /// How long a burst is.
        required burst: Quantity<Duration>,
        /// The length of a period.
        required every: Quantity<Duration>,
        /// How many periods; 1 where absent.
        optional times: Quantity<Count>,
        /// `uniform` or `poisson`.
        optional arrivals: ArrivalKind,
        /// The most virtual users at once.
        optional max_vus: Quantity<Count>,
        /// Users that have begun their lives before the first arrival.
        optional prepared: Quantity<Count>,
        /// What happens to an arrival when no user is free: `drop` (and count) or `queue`.
        optional when_full: WhenFull,
    }
}

mapping! {
    /// All virtual users at one instant, once; `start` is carried out before that instant.
    struct AtOnce {
        /// The type of user.
        optional user: Text,
        /// How many, for the whole grid.
        required vus: Quantity<Count>,
        /// The longest time it may take; 10m where absent.
        optional max_duration: Quantity<Duration>,
    }
}

mapping! {
    /// Virtual users that take turns: each at a `pace`, or all of them at a total `rate`. A turn counts from when
    /// it was due, even where its user was busy.
    struct Paced {
        /// The type of user.
        optional user: Text,
        /// How many, for the whole grid; those that live, in a phase that continues another.
        optional vus: Quantity<Count>,
        /// From one turn of a user to its next.
        optional pace: Quantity<Duration>,
        /// Turns of all users together.
        optional rate: Quantity<Rate>,
        /// How long.
        required duration: Quantity<Duration>,
    }
}

words! {
    /// What happens to an arrival when no user is free.
    enum WhenFull { "drop" => Drop, "queue" => Queue, }
}

mapping! {
    /// A fixed number of virtual users.
    struct ConstantVus {
        /// The type of user; may be absent where there is only one.
        optional user: Text,
        /// How many, for the whole grid.
        required vus: Quantity<Count>,
        /// How long.
        required duration: Quantity<Duration>,
    }
}

mapping! {
    /// A number of virtual users that changes over time.
    struct RampingVus {
        /// The type of user.
        optional user: Text,
        /// How many there are at the beginning; 0 where absent.
        optional start: Quantity<Count>,
        /// Where the number goes, and in which time.
        required stages: Vec<UserStage>,
    }
}

mapping! {
    /// A stretch of a ramp of users.
    struct UserStage {
        /// The number at its end.
        required to: Quantity<Count>,
        /// Its length.
        required over: Quantity<Duration>,
        /// Users come and go in batches of so many.
        optional batch: Quantity<Count>,
    }
}

mapping! {
    /// Arrivals at a fixed rate.
    struct ConstantRate {
        /// The type of user.
        optional user: Text,
        /// Arrivals per time, for the whole grid.
        required rate: Quantity<Rate>,
        /// How long.
        required duration: Quantity<Duration>,
        /// `uniform` (evenly spaced) or `poisson`.
        optional arrivals: ArrivalKind,
        /// The most virtual users at once, for the whole grid.
        optional max_vus: Quantity<Count>,
        /// Users that have begun their lives before the first arrival.
        optional prepared: Quantity<Count>,
        /// What happens to an arrival when no user is free: `drop` (and count) or `queue`.
        optional when_full: WhenFull,
    }
}

words! {
    /// How arrivals are spaced.
    enum ArrivalKind { "uniform" => Uniform, "poisson" => Poisson, }
}

mapping! {
    /// Arrivals at a rate that changes over time.
    struct RampingRate {
        /// The type of user.
        optional user: Text,
        /// The rate at the beginning; 0 where absent.
        optional start: Quantity<Rate>,
        /// Where the rate goes, and in which time.
        required stages: Vec<RateStage>,
        /// `uniform` or `poisson`.
        optional arrivals: ArrivalKind,
        /// The most virtual users at once.
        optional max_vus: Quantity<Count>,
        /// Users that have begun their lives before the first arrival.
        optional prepared: Quantity<Count>,
        /// What happens to an arrival when no user is free: `drop` (and count) or `queue`.
        optional when_full: WhenFull,
    }
}

mapping! {
    /// A stretch of a ramp of the rate.
    struct RateStage {
        /// The rate at its end.
        required to: Quantity<Rate>,
        /// Its length.
        required over: Quantity<Duration>,
    }
}
