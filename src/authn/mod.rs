//! A certificate or a token becomes a proof of identity.
