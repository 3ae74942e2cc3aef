//! Stand-ins for what the gateway talks to, so that one binary reproduces everything offline: a provider, a platform, and
//! for the generator's own tests a gateway.

pub mod gateway;
pub mod peer;
pub mod provider;
pub mod telegram;
