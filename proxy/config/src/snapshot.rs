//! The three tables a proxy runs on, and the deltas that change them.
//!
//! A [`Snapshot`] is a persistent value: rows are shared, so a clone costs the size of its indexes
//! and a delta costs the rows it names. Frontends point at services, endpoints belong to services;
//! a row may arrive before the row it points at, so order inside a delta never matters.

use std::{collections::BTreeMap, sync::Arc};

pub use crate::endpoints::Endpoints;
use crate::{
    endpoint::{Endpoint, EndpointKey},
    frontend::Frontend,
    name::{FrontendName, ServiceName},
    problem::Problem,
    service::{ENDPOINTS_MAX, Service},
};

/// What a proxy runs on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// By name.
    pub frontends: BTreeMap<FrontendName, Arc<Frontend>>,
    /// By name.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// By service; a service without a row has no endpoints.
    pub endpoints: BTreeMap<ServiceName, Arc<Endpoints>>,
}

/// A batch of changes. Each valid change is applied, whatever becomes of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// In order; later ones win.
    pub changes: Vec<Change>,
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Adds or replaces a frontend.
    Frontend(Frontend),
    /// Removes a frontend; one that isn't there is no problem.
    RemoveFrontend(FrontendName),
    /// Adds or replaces a service; its endpoints stay.
    Service(Box<Service>),
    /// Removes a service with its endpoints; its frontends stay, unbound.
    RemoveService(ServiceName),
    /// Adds or replaces one endpoint.
    Endpoint(ServiceName, Endpoint),
    /// Removes one endpoint.
    RemoveEndpoint(ServiceName, EndpointKey),
    /// Replaces all endpoints of a service.
    Endpoints(ServiceName, Vec<Endpoint>),
}

/// What a delta touched: the rows that differ now, each named once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Frontends added, replaced or removed.
    pub frontends: Vec<FrontendName>,
    /// Services of which the row or any endpoint was added, replaced or removed.
    pub services: Vec<ServiceName>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Applies each change that fits; the others come back as problems and change nothing.
    ///
    /// Costs O(log n) a row, plus a copy of the index of each service whose endpoints change one by
    /// one.
    pub fn apply(&mut self, delta: Delta) -> (Touched, Vec<Problem>) {
        let mut touched = Touched::default();
        let mut problems = Vec::new();
        for change in delta.changes {
            if let Err(problem) = self.apply_one(change, &mut touched) {
                problems.push(problem);
            }
        }
        touched.frontends.sort_unstable();
        touched.frontends.dedup();
        touched.services.sort_unstable();
        touched.services.dedup();
        (touched, problems)
    }

    fn apply_one(&mut self, change: Change, touched: &mut Touched) -> Result<(), Problem> {
        match change {
            Change::Frontend(frontend) => {
                self.put_frontend(frontend, touched);
                Ok(())
            }
            Change::RemoveFrontend(name) => {
                if self.frontends.remove(&name).is_some() {
                    touched.frontends.push(name);
                }
                Ok(())
            }
            Change::Service(service) => {
                let name = service.name.clone();
                if self.services.get(&name).is_none_or(|old| **old != *service) {
                    self.services.insert(name.clone(), Arc::from(service));
                    touched.services.push(name);
                }
                Ok(())
            }
            Change::RemoveService(name) => {
                let had_endpoints = self.endpoints.remove(&name).is_some();
                if self.services.remove(&name).is_some() || had_endpoints {
                    touched.services.push(name);
                }
                Ok(())
            }
            Change::Endpoint(name, endpoint) => self.put_endpoint(name, endpoint, touched),
            Change::RemoveEndpoint(name, key) => {
                if let Some(row) = self.endpoints.get_mut(&name)
                    && row.contains_key(&key)
                {
                    Arc::make_mut(row).remove(&key);
                    touched.services.push(name);
                }
                Ok(())
            }
            Change::Endpoints(name, endpoints) => self.put_endpoints(name, endpoints, touched),
        }
    }

    fn put_frontend(&mut self, frontend: Frontend, touched: &mut Touched) {
        if self
            .frontends
            .get(&frontend.name)
            .is_none_or(|old| **old != frontend)
        {
            touched.frontends.push(frontend.name.clone());
            self.frontends
                .insert(frontend.name.clone(), Arc::new(frontend));
        }
    }

    fn put_endpoint(
        &mut self,
        name: ServiceName,
        endpoint: Endpoint,
        touched: &mut Touched,
    ) -> Result<(), Problem> {
        let row = self.endpoints.entry(name.clone()).or_default();
        match row.get(&endpoint.key) {
            Some(old) if **old == endpoint => return Ok(()),
            None if row.len() >= ENDPOINTS_MAX => return Err(too_many(&name, row.len() + 1)),
            _ => {}
        }
        Arc::make_mut(row).insert(Arc::new(endpoint));
        touched.services.push(name);
        Ok(())
    }

    fn put_endpoints(
        &mut self,
        name: ServiceName,
        endpoints: Vec<Endpoint>,
        touched: &mut Touched,
    ) -> Result<(), Problem> {
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(too_many(&name, endpoints.len()));
        }
        let old = self.endpoints.get(&name);
        let new: Endpoints = endpoints
            .into_iter()
            .map(|endpoint| {
                let kept = old.and_then(|row| row.get(&endpoint.key));
                let kept = kept.filter(|row| ***row == endpoint);
                kept.cloned().unwrap_or_else(|| Arc::new(endpoint))
            })
            .collect();
        if old.is_none_or(|row| **row != new) {
            self.endpoints.insert(name.clone(), Arc::new(new));
            touched.services.push(name);
        }
        Ok(())
    }
}

/// The delta that turns `old` into `new`.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Delta {
    let mut changes = Vec::new();
    for (name, frontend) in &new.frontends {
        if old.frontends.get(name) != Some(frontend) {
            changes.push(Change::Frontend((**frontend).clone()));
        }
    }
    for name in old
        .frontends
        .keys()
        .filter(|name| !new.frontends.contains_key(*name))
    {
        changes.push(Change::RemoveFrontend(name.clone()));
    }
    for name in old
        .services
        .keys()
        .filter(|name| !new.services.contains_key(*name))
    {
        changes.push(Change::RemoveService(name.clone()));
    }
    for (name, service) in &new.services {
        if old.services.get(name) != Some(service) {
            changes.push(Change::Service(Box::new((**service).clone())));
        }
    }
    for (name, row) in &new.endpoints {
        if old.endpoints.get(name) != Some(row) {
            let endpoints = row.values().map(|endpoint| (**endpoint).clone()).collect();
            changes.push(Change::Endpoints(name.clone(), endpoints));
        }
    }
    for name in old
        .endpoints
        .keys()
        .filter(|name| !new.endpoints.contains_key(*name))
    {
        changes.push(Change::Endpoints(name.clone(), Vec::new()));
    }
    Delta { changes }
}

fn too_many(name: &ServiceName, count: usize) -> Problem {
    let message = format!(
        "has {count} endpoints, {ENDPOINTS_MAX} is the limit; split it into several services"
    );
    Problem::resource("service", name.as_str(), "endpoints", message)
}
