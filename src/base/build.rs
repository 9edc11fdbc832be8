//! What this program was built from and by, as the build script found it.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, or `unknown` where the sources did not tell.
pub const COMMIT: &str = env!("REMORA_BUILD_COMMIT");

/// The day of the commit; empty if it is unknown.
pub const COMMIT_DATE: &str = env!("REMORA_BUILD_COMMIT_DATE");

/// The library behind TLS.
pub const TLS: &str = if cfg!(feature = "aws-lc-rs") {
    "aws-lc-rs"
} else {
    "ring"
};

/// The target triple.
pub const TARGET: &str = env!("REMORA_BUILD_TARGET");

/// The profile, as Cargo tells build scripts: `release` or `debug`.
pub const PROFILE: &str = env!("REMORA_BUILD_PROFILE");

/// The optimization level of the profile.
pub const OPT_LEVEL: &str = env!("REMORA_BUILD_OPT_LEVEL");

/// What the compiler says of itself.
pub const RUSTC: &str = env!("REMORA_BUILD_RUSTC");
