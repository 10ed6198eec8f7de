//! The counters, defined against each other.
