//! Probes: whether containers have started, live, and are ready.

pub(crate) mod check;

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::{sync::mpsc, time::sleep};

use crate::cri::Runtime;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Has it started?
    Startup,
    /// Does it live?
    Liveness,
    /// Does it serve?
    Readiness,
}

impl Kind {
    /// As messages name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// The probe of this kind that a container has.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What a probe has found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// The container's id.
    pub(crate) container: String,
    /// Its name.
    pub(crate) name: String,
    /// Which probe.
    pub(crate) kind: Kind,
    /// Whether its answer is settled now: so many times in a row.
    pub(crate) settled: Option<bool>,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

/// Counts answers in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    last: Option<bool>,
    times: i32,
}

impl Row {
    /// Takes an answer; gives it back once it has come often enough in a row.
    pub(crate) fn take(&mut self, succeeded: bool, probe: &Probe) -> Option<bool> {
        if self.last == Some(succeeded) {
            self.times = self.times.saturating_add(1);
        } else {
            *self = Self { last: Some(succeeded), times: 1 };
        }
        let enough = if succeeded {
            probe.success_threshold.unwrap_or(1)
        } else {
            probe.failure_threshold.unwrap_or(3)
        };
        (self.times >= enough.max(1)).then_some(succeeded)
    }
}

/// What is probed.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The container's id.
    pub(crate) id: String,
    /// The container.
    pub(crate) container: Container,
    /// The pod's address.
    pub(crate) address: Option<IpAddr>,
    /// When it started.
    pub(crate) started: Timestamp,
}

/// Probes until the task ends, or, of startup, until it has succeeded, or until nobody listens.
pub(crate) async fn run(kind: Kind, target: Target, runtime: Runtime, send: mpsc::Sender<Finding>) {
    let Some(probe) = kind.of(&target.container).cloned() else { return };
    let seconds = |it: Option<i32>, default: u64| {
        Duration::from_secs(it.and_then(|it| u64::try_from(it).ok()).unwrap_or(default))
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let age =
        Duration::try_from(Timestamp::now().duration_since(target.started)).unwrap_or_default();
    sleep(seconds(probe.initial_delay_seconds, 0).saturating_sub(age)).await;
    let mut row = Row::default();
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = check::check(&probe, &target, &runtime).await;
        let settled = row.take(answer.is_ok(), &probe);
        let finding = Finding {
            container: target.id.clone(),
            name: target.container.name.clone(),
            kind,
            settled,
            failure: answer.err(),
        };
        let is_done = kind != Kind::Readiness && settled == Some(false)
            || kind == Kind::Startup && settled == Some(true);
        if send.send(finding).await.is_err() || is_done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_it_has_come_often_enough_in_a_row() {
        let probe =
            Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut row = Row::default();
        let answers = [true, true, false, false, true, false, false, false, false];
        let settled: Vec<Option<bool>> = answers.iter().map(|it| row.take(*it, &probe)).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(settled, [None, yes, None, None, None, None, None, no, no]);
    }
}
