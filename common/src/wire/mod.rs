//! The wire: the generated messages, and the way from them to the types that compute.

mod convert;

/// Version of the protocol. Raise it when an old worker and a new coordinator would misunderstand each
/// other; 0 is "not set". A coordinator refuses workers of another version with a sentence.
pub const PROTOCOL_VERSION: u32 = 2;

/// The largest message either side accepts. Larger things travel in pieces.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The size of such a piece.
pub const PIECE_BYTES: usize = 1 << 20;

pub use convert::{SnapshotError, measures_from_wire, measures_to_wire};

#[expect(missing_docs, reason = "generated; the documentation stands in proto/")]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::use_self,
    clippy::large_futures,
    reason = "generated"
)]
/// Generated from `proto/loadgrid/v1`.
pub mod pb {
    tonic::include_proto!("loadgrid.v1");

    /// The messages of `plan.proto`.
    pub mod plan_types {
        pub use super::{
            Assignment, Auth, Basic, Between, Binding, Blob, BodyCheck, Branch, Bundle, Cap, CapPer, Capture,
            CapturePick, Choose, Closed, Connections, Count, Counted, CounterStep, Css, Encoding, End,
            Exhausted, Expect, FormPart, Generated, GridSettings, Group, Header, HeaderCheck, Hole, Http,
            HttpStep, HttpVersion, If, JsonCheck, Load, LogNormal, Lookup, Observation, Observe, Open, Paced,
            Pair, Part, Phase, PhaseKind, Pick, Plan, Range, RatePiece as PlanRatePiece, Repeat, Retry, Set,
            SetHeaders, Shared, Source, StatusRange, Step, StepPlace, Template, Think, Threshold, Tls,
            UserPiece as PlanUserPiece, UserType, WaitFor, Weights, auth, body_check, capture, header_check,
            hole, json_check, load, part, source, step, think,
        };
    }
}
