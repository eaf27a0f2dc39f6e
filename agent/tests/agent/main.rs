//! The whole agent over a fake host, against a controller of a few lines.

mod api;
mod artefacts;
mod controller;
mod exports;
mod fixture;
mod identity;
mod join;
mod removal;
mod storage;
mod tasks;
mod tunnel;
