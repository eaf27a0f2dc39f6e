//! `./dev bench`: measures the packages on systemd nodes, and compares with what the project promises.
//!
//! JSON on standard output, a table on standard error. A figure that is missed is marked and told by the exit code; the
//! figures are of this machine, while others share it or not, so a miss is a reason to look and not a failed test.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a terminal"
)]

mod joins;
mod measure;
mod push;

use std::process::ExitCode;

use canasta_machines::fleet::Fleet;
use clap::Parser;
use comfy_table::{Table, presets};
use serde::Serialize;

/// Measures the fleet on systemd nodes.
#[derive(Debug, Parser)]
#[command(after_help = "Example: sudo ./dev bench --seconds 10")]
struct Arguments {
    /// For how long the idle agent's CPU time is watched.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// One figure beside what is promised.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    name: &'static str,
    unit: &'static str,
    measured: f64,
    /// What is promised, at most or at least; none for a figure that others are seen beside.
    limit: Option<f64>,
    at_least: bool,
    /// Measured in parts of the promise; what can be compared between machines.
    ratio: Option<f64>,
    kept: bool,
}

impl Figure {
    /// A figure that must not be larger.
    pub(crate) fn at_most(
        name: &'static str,
        unit: &'static str,
        measured: f64,
        limit: f64,
    ) -> Self {
        Self::new(name, unit, measured, limit, false)
    }

    /// A figure that must not be smaller.
    pub(crate) fn at_least(
        name: &'static str,
        unit: &'static str,
        measured: f64,
        limit: f64,
    ) -> Self {
        Self::new(name, unit, measured, limit, true)
    }

    /// A figure of the machine, which nobody promises.
    pub(crate) fn told(name: &'static str, unit: &'static str, measured: f64) -> Self {
        Self {
            name,
            unit,
            measured,
            limit: None,
            at_least: false,
            ratio: None,
            kept: true,
        }
    }

    fn new(
        name: &'static str,
        unit: &'static str,
        measured: f64,
        limit: f64,
        at_least: bool,
    ) -> Self {
        Self {
            name,
            unit,
            measured,
            limit: Some(limit),
            at_least,
            ratio: Some(measured / limit),
            kept: if at_least {
                measured >= limit
            } else {
                measured <= limit
            },
        }
    }
}

#[derive(Serialize)]
struct Report {
    machine: measure::Machine,
    figures: Vec<Figure>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let fleet = Fleet::up(&["cp1"]);
    let mut figures = vec![measure::install(&fleet)];
    figures.extend(measure::agent(&fleet, arguments.seconds));
    figures.extend(measure::commands(&fleet));
    figures.extend(push::push(&fleet));
    figures.extend(joins::joins());
    let report = Report {
        machine: measure::Machine::this(),
        figures,
    };
    println!(
        "{}",
        serde_json::to_string_pretty(&report).expect("plain data")
    );
    eprintln!("{}", table(&report.figures));
    if report.figures.iter().all(|figure| figure.kept) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["figure", "measured", "promised", "ratio", ""]);
    for figure in figures {
        let sign = if figure.at_least {
            "at least"
        } else {
            "at most"
        };
        table.add_row([
            figure.name.to_owned(),
            format!("{:.2} {}", figure.measured, figure.unit),
            figure
                .limit
                .map(|limit| format!("{sign} {limit} {}", figure.unit))
                .unwrap_or_default(),
            figure
                .ratio
                .map(|ratio| format!("{ratio:.2}"))
                .unwrap_or_default(),
            if figure.kept {
                String::new()
            } else {
                "MISSED".to_owned()
            },
        ]);
    }
    table
}
