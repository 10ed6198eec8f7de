//! Placeholder header; replaced with the module.
