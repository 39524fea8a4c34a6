//! First identities: codes, redeems, clones.
