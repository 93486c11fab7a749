use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// The figures in the order of their measurement.
#[derive(Default)]
pub(crate) struct Report {
    figures: Vec<(String, f64, &'static str)>,
}

impl Report {
    /// The median of some rates.
    pub(crate) fn rate(&mut self, name: &str, rates: &mut [f64]) {
        let rate = percentile(rates, 50.0);
        self.figures.push((name.to_owned(), rate, "/s"));
    }

    /// The median of the ratios of runs that stood side by side.
    pub(crate) fn ratio(&mut self, name: &str, over: &[f64], under: &[f64]) {
        let mut ratios: Vec<f64> = over.iter().zip(under).map(|(a, b)| a / b).collect();
        let ratio = percentile(&mut ratios, 50.0);
        self.figures.push((name.to_owned(), ratio, ""));
    }

    /// A duration that was measured once.
    pub(crate) fn millis(&mut self, name: &str, took: Duration) {
        self.figures
            .push((name.to_owned(), took.as_secs_f64() * 1e3, "ms"));
    }

    /// p50, p95 and p99 of some durations in milliseconds.
    pub(crate) fn percentiles(&mut self, name: &str, millis: &mut [f64]) {
        for percent in [50.0, 95.0, 99.0] {
            let figure = percentile(millis, percent);
            self.figures
                .push((format!("{name}, p{percent}"), figure, "ms"));
        }
    }

    pub(crate) fn table(&self) -> String {
        let width = self
            .figures
            .iter()
            .map(|(name, ..)| name.chars().count())
            .max()
            .unwrap_or_default();
        self.figures
            .iter()
            .fold(String::new(), |mut table, (name, figure, unit)| {
                let digits = if *unit == "/s" { 0 } else { 2 };
                let _ = writeln!(table, "{name:width$}  {figure:>12.digits$} {unit}");
                table
            })
    }

    pub(crate) fn json(&self) -> Value {
        self.figures
            .iter()
            .map(|(name, figure, unit)| json!({ "name": name, "figure": figure, "unit": unit }))
            .collect()
    }
}

fn percentile(figures: &mut [f64], percent: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = (figures.len().saturating_sub(1) as f64 * percent / 100.0).round() as usize;
    figures.get(at).copied().unwrap_or(f64::NAN)
}
