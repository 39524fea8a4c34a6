//! The agent: real Envoy, SPIFFE libraries, nginx and SDKs against it.
