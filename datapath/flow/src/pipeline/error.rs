//! Why changes are refused, in Open vSwitch's names (include/openvswitch/ofp-errors.h).

/// Why a change was refused. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} ({})", code.name())]
pub struct ChangeError {
    /// The kind.
    pub code: ErrorCode,
    /// The object, what is wrong, and what to do.
    pub what: String,
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A rule with `check_overlap` overlaps another of its priority.
    Overlap,
    /// No cell of statistics is left.
    TableFull,
    /// There is no such table.
    BadTable,
    /// `goto_table` does not go forward.
    BadGoto,
    /// Actions use a group that there is not.
    BadOutGroup,
    /// Actions use a meter that there is not.
    InvalidMeter,
    /// The group to be added is there.
    GroupExists,
    /// The group's number is one of the reserved ones.
    InvalidGroup,
    /// There is no such group to be modified.
    UnknownGroup,
    /// The group would lead back to itself.
    GroupLoop,
    /// Two buckets of a group have one number.
    BucketExists,
    /// The meter to be added is there.
    MeterExists,
    /// There is no such meter to be modified.
    UnknownMeter,
}

impl ErrorCode {
    /// Open vSwitch's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlap => "OFPFMFC_OVERLAP",
            Self::TableFull => "OFPFMFC_TABLE_FULL",
            Self::BadTable => "OFPBRC_BAD_TABLE_ID",
            Self::BadGoto => "OFPBIC_BAD_TABLE_ID",
            Self::BadOutGroup => "OFPBAC_BAD_OUT_GROUP",
            Self::InvalidMeter => "OFPMMFC_INVALID_METER",
            Self::GroupExists => "OFPGMFC_GROUP_EXISTS",
            Self::InvalidGroup => "OFPGMFC_INVALID_GROUP",
            Self::UnknownGroup => "OFPGMFC_UNKNOWN_GROUP",
            Self::GroupLoop => "OFPGMFC_LOOP",
            Self::BucketExists => "OFPGMFC_BUCKET_EXISTS",
            Self::MeterExists => "OFPMMFC_METER_EXISTS",
            Self::UnknownMeter => "OFPMMFC_UNKNOWN_METER",
        }
    }

    pub(super) fn because(self, what: String) -> ChangeError {
        ChangeError { code: self, what }
    }
}
