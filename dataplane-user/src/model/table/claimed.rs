//! Frontend addresses change hands.

use super::ServiceTable;
use crate::model::{
    claims::{ClaimKey, Claimant, ClaimantId, Dispute, Rank},
    object::ObjectRef,
    problem::{Cause, Problem},
    types::{Family, FrontendKind},
};

impl ServiceTable {
    /// Somebody who asked for the first frontend addresses asks for the second ones now. Marks who
    /// gains and who loses one by that, and says what is disputed.
    pub(super) fn reclaim(
        &mut self,
        before: &(Rank, Vec<ClaimKey>),
        now: &(Rank, Vec<ClaimKey>),
    ) -> Vec<(ClaimKey, Dispute)> {
        let same_rank = before.0 == now.0;
        for key in before.1.iter().filter(|key| !same_rank || !now.1.contains(key)) {
            if let Some(heir) = self.claims.release(*key, &before.0) {
                self.mark_claimant(heir, key.family());
            }
        }
        let mut disputes = Vec::new();
        for key in now.1.iter().filter(|key| !same_rank || !before.1.contains(key)) {
            let (services, pods) = (&self.services, &self.pods);
            let rank_of = |claimant: Claimant| {
                let rank = match claimant.id() {
                    ClaimantId::Service(id) => services.get(id).map(|record| record.rank(id)),
                    ClaimantId::Pod(id) => pods.get(id).map(|record| record.rank(id)),
                };
                rank.unwrap_or_else(|| now.0.clone())
            };
            let Some(dispute) = self.claims.claim(*key, now.0.clone(), rank_of) else { continue };
            self.mark_claimant(dispute.loser, key.family());
            disputes.push((*key, dispute));
        }
        disputes
    }

    fn mark_claimant(&mut self, claimant: Claimant, family: Family) {
        match claimant.id() {
            ClaimantId::Service(id) => {
                if let Some(record) = self.services.get(id) {
                    record.mark([family], &mut self.changed);
                }
            }
            ClaimantId::Pod(id) => {
                if let Some(record) = self.pods.get(id) {
                    record.mark(&mut self.changed);
                }
            }
        }
    }

    /// The problem that a frontend belongs to somebody else.
    pub(super) fn taken(&self, key: ClaimKey, dispute: Dispute) -> Option<Problem> {
        let ClaimKey { address, port, protocol } = key;
        let field = match dispute.loser.id() {
            ClaimantId::Service(id) => {
                let spec = self.services.get(id)?.spec.as_ref()?;
                match spec.port_at(address, port, protocol)?.1 {
                    FrontendKind::ClusterIp => "spec.clusterIPs",
                    FrontendKind::NodePort => "spec.ports.nodePort",
                    FrontendKind::LoadBalancer => "status.loadBalancer.ingress",
                    FrontendKind::ExternalIp => "spec.externalIPs",
                    FrontendKind::HostPort => return None,
                }
            }
            ClaimantId::Pod(_) => "spec.containers.ports.hostPort",
        };
        let object = self.reference(dispute.loser)?;
        let owner = self.reference(dispute.winner)?;
        Some(Problem {
            file: self.files.get(&object).cloned(),
            object,
            field: field.into(),
            cause: Cause::Taken { address, port, protocol, owner },
        })
    }

    fn reference(&self, claimant: Claimant) -> Option<ObjectRef> {
        match claimant.id() {
            ClaimantId::Service(id) => self.services.get(id).map(super::ServiceRecord::reference),
            ClaimantId::Pod(id) => self.pods.get(id).map(super::PodRecord::reference),
        }
    }
}
