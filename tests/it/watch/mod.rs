//! Rotation: streams, claims, acknowledgements.
