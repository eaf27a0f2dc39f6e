//! The controller in this process: real mutual TLS on loopback, real SQLite, and small agents that speak the real API.

mod agent;
mod enrolment;
mod first_start;
mod health;
mod operations;
mod people;
mod renewal;
mod support;
