//! End-to-end tests, guards and what they share.
