//! What an agent says of its member's proxies: one stream of reports for all of them.
//!
//! Each message names its proxy. Its group is never what the message says, but the member's own.

use std::collections::BTreeSet;

use fairlead_api::proxy::Refusal;
use fairlead_config::xds::proto::load_stats::{HandedReport, LoadStatsRequest};

use super::reports::Reports;
use crate::{fleet::ProxyId, world::GroupName};

/// The proxies that one agent reports for. Dropped, they are not connected as far as is known.
pub(super) struct Relayed {
    reports: Reports,
    group: GroupName,
    connected: BTreeSet<ProxyId>,
    reporting: BTreeSet<ProxyId>,
}

impl Relayed {
    pub(super) fn new(reports: Reports, group: GroupName) -> Self {
        Self {
            reports,
            group,
            connected: BTreeSet::new(),
            reporting: BTreeSet::new(),
        }
    }

    /// Takes one message in; those beyond [`PROXIES_MAX`] proxies are not counted.
    pub(super) fn take(&mut self, message: &LoadStatsRequest) {
        let (Some(node), Some(handed)) = (&message.node, &message.handed) else {
            return;
        };
        let id = ProxyId {
            group: self.group.to_string(),
            node: node.id.clone(),
        };
        let known = self.connected.contains(&id) || self.reporting.contains(&id);
        if !known && self.connected.len().max(self.reporting.len()) >= PROXIES_MAX {
            return;
        }
        if handed.connected {
            if self.connected.insert(id.clone()) {
                self.reports.connected(&id, &handed.version);
            }
            let refused = handed.refused.iter().map(|one| Refusal {
                resource: one.resource.clone(),
                reason: one.reason.clone(),
            });
            let applied = handed.applied.as_deref();
            self.reports
                .answered(&id, applied, handed.settled, refused.collect());
        }
        match handed.report() {
            HandedReport::None => {}
            kind => {
                if self.reporting.insert(id.clone()) {
                    self.reports.reports(&id);
                }
                let whole = kind == HandedReport::Whole;
                self.reports.reported(&id, message, whole);
            }
        }
        if !handed.connected {
            if self.connected.remove(&id) {
                self.reports.disconnected(&id);
            }
            if self.reporting.remove(&id) {
                self.reports.reports_no_more(&id);
            }
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        for id in &self.connected {
            self.reports.disconnected(id);
        }
        for id in &self.reporting {
            self.reports.reports_no_more(id);
        }
    }
}

/// Proxies of one member.
const PROXIES_MAX: usize = 4096;
