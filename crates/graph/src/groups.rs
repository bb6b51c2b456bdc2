//! From labels to groups of dimensions.

use crate::cost::{UnitOf, cost};
use crate::trace::Trace;
use crate::walk::Walk;
use crate::why::Why;
use briquette_core::{Dependencies, DimensionGroup, Fixed, Member, Role};
use std::collections::{BTreeMap, BTreeSet};

/// An axis of a parameter, by their numbers.
type Axis = (usize, usize);

/// Entries that go together: for each axis its indices, ascending.
type Unit = BTreeMap<Axis, Vec<usize>>;

pub(crate) fn dependencies(trace: &Trace) -> Dependencies {
    let mut walk = Walk::through(trace);
    walk.square();
    let mut found = Found { why: BTreeMap::new(), walk };
    let units = found.units();
    let groups = found.join(units);
    let groups: Vec<_> = groups.into_iter().filter(|units| found.is_group(units)).collect();
    let mut fixed = found.fixed(&groups);
    fixed.sort_by_key(|(place, axis, _)| (*place, *axis));
    let fixed = fixed.into_iter().map(|(place, axis, why)| found.stays(place, axis, why)).collect();
    let classes = found.classes(&groups);
    let groups: Vec<DimensionGroup> = groups.into_iter().map(|units| found.group(&units)).collect();
    let cost = cost(&mut found.walk, &groups, &classes);
    Dependencies { groups, fixed, cost: Some(cost) }
}

struct Found<'a> {
    walk: Walk<'a>,
    /// Why classes that are not frozen are no units.
    why: BTreeMap<u32, Why>,
}

impl Found<'_> {
    /// Classes of entries that can go, in the order of the first entry of each.
    fn units(&mut self) -> Vec<Unit> {
        let mut classes: BTreeMap<u32, Unit> = BTreeMap::new();
        for (axis, index, id) in self.entries() {
            let class = self.walk.labels.class(id);
            classes.entry(class).or_default().entry(axis).or_default().push(index);
        }
        let mut units = Vec::new();
        for (class, unit) in classes {
            match self.lacks(class, &unit) {
                Some(why) => _ = self.why.insert(class, why),
                None => units.push(unit),
            }
        }
        units
    }

    /// Every entry of every axis of every parameter: its axis, its index, its label.
    fn entries(&self) -> Vec<(Axis, usize, u32)> {
        let mut list = Vec::new();
        for (number, firsts) in self.walk.firsts.iter().enumerate() {
            for (axis, first) in firsts.iter().enumerate() {
                let size = self.walk.trace.parameters[number].shape[axis];
                let first = first.iter().flat_map(|&first| (0..size).map(move |i| (i, first + i as u32)));
                list.extend(first.map(|(index, id)| ((number, axis), index, id)));
            }
        }
        list
    }

    /// Why a class cannot go, if it cannot.
    fn lacks(&mut self, class: u32, unit: &Unit) -> Option<Why> {
        if let Some(why) = self.walk.labels.frozen(class) {
            return Some(why);
        }
        let has = |role| unit.keys().any(|&axis| self.does(axis, role));
        if unit.keys().all(|(number, _)| !self.walk.used.contains(number)) {
            return Some(Why::Unused);
        }
        if !has(Role::Produces) {
            return Some(Why::NoProducer);
        }
        (!has(Role::Consumes)).then_some(Why::NoConsumer)
    }

    fn does(&self, axis: Axis, role: Role) -> bool {
        self.walk.roles.get(&axis).is_some_and(|roles| roles.contains(&role))
    }

    /// Units of which some parameter makes several entries of one axis are one group.
    fn join(&self, units: Vec<Unit>) -> Vec<Vec<Unit>> {
        let mut groups: Vec<(BTreeSet<Axis>, Vec<Unit>)> = Vec::new();
        for unit in units {
            let mut makers: BTreeSet<Axis> =
                unit.keys().copied().filter(|&axis| self.does(axis, Role::Produces)).collect();
            let (met, others): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|(axes, _)| !axes.is_disjoint(&makers));
            let mut joined = Vec::new();
            for (axes, units) in met {
                makers.extend(axes);
                joined.extend(units);
            }
            joined.push(unit);
            groups = others;
            groups.push((makers, joined));
        }
        let mut groups: Vec<Vec<Unit>> = groups.into_iter().map(|(_, units)| units).collect();
        let first = |unit: &Unit| unit.first_key_value().map(|(axis, indices)| (*axis, indices[0]));
        groups.iter_mut().for_each(|units| units.sort_by_key(first));
        groups.sort_by_key(|units| first(&units[0]));
        groups
    }

    /// Which unit of which group each class is.
    fn classes(&mut self, groups: &[Vec<Unit>]) -> UnitOf {
        let mut classes = UnitOf::new();
        for (group, units) in groups.iter().enumerate() {
            for (unit, entries) in units.iter().enumerate() {
                let Some((&(number, axis), indices)) = entries.first_key_value() else { continue };
                let Some(first) = self.walk.firsts[number][axis] else { continue };
                classes.insert(self.walk.labels.class(first + indices[0] as u32), (group, unit));
            }
        }
        classes
    }

    /// A single unit is the whole layer.
    fn is_group(&mut self, units: &[Unit]) -> bool {
        if units.len() == 1
            && let Some((&(number, axis), indices)) = units[0].first_key_value()
            && let Some(first) = self.walk.firsts[number][axis]
        {
            let class = self.walk.labels.class(first + indices[0] as u32);
            self.why.insert(class, Why::OneUnit);
        }
        units.len() > 1
    }

    /// For each axis with an entry in no group the place of its parameter, the axis, and the first entry's reason.
    fn fixed(&mut self, groups: &[Vec<Unit>]) -> Vec<(usize, usize, Why)> {
        let goes: BTreeSet<(Axis, usize)> = groups
            .iter()
            .flatten()
            .flatten()
            .flat_map(|(&axis, indices)| indices.iter().map(move |&index| (axis, index)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut fixed = Vec::new();
        for ((number, axis), index, id) in self.entries() {
            if goes.contains(&((number, axis), index)) || !seen.insert((number, axis)) {
                continue;
            }
            let class = self.walk.labels.class(id);
            let why = self.walk.labels.frozen(id).or(self.why.get(&class).copied());
            let unused = !self.walk.used.contains(&number);
            let why = if unused { Why::Unused } else { why.unwrap_or(Why::NoConsumer) };
            let places = &self.walk.trace.parameters[number].places;
            // No one asks for parts of a kernel.
            fixed.extend(places.iter().filter(|_| why != Why::Kernel).map(|&place| (place, axis, why)));
        }
        fixed
    }

    fn stays(&self, place: usize, axis: usize, why: Why) -> Fixed {
        let parameter = &self.walk.trace.view.parameters[place];
        let why = why.text(|at| self.walk.trace.operation(at));
        Fixed { name: parameter.name.clone(), path: parameter.path.clone(), axis, why }
    }

    fn group(&mut self, units: &[Unit]) -> DimensionGroup {
        let axes: BTreeSet<Axis> = units.iter().flat_map(|unit| unit.keys().copied()).collect();
        let mut members: Vec<(usize, Member)> = Vec::new();
        for &axis in &axes {
            for &place in &self.walk.trace.parameters[axis.0].places {
                members.extend(
                    self.roles(axis).into_iter().map(|r| (place, self.member(place, axis, r, units))),
                );
            }
        }
        members.sort_by_key(|(place, member)| (*place, member.axis, member.role));
        let maker = axes.iter().filter(|&&axis| self.does(axis, Role::Produces));
        let places = maker.flat_map(|(number, _)| &self.walk.trace.parameters[*number].places);
        let name = places.min().map(|&place| self.walk.trace.view.parameters[place].name.clone());
        let name = name.unwrap_or_default();
        DimensionGroup {
            name: name.strip_suffix(".weight").unwrap_or(&name).to_string(),
            units: units.len(),
            members: members.into_iter().map(|(_, member)| member).collect(),
            averaged_by: self.averaged_by(units),
        }
    }

    /// What an axis is listed for: an entry that is also applied to others is a value first.
    fn roles(&self, axis: Axis) -> Vec<Role> {
        let roles = [Role::Produces, Role::Consumes].into_iter().filter(|&role| self.does(axis, role));
        let roles: Vec<Role> = roles.collect();
        if roles.is_empty() { vec![Role::Follows] } else { roles }
    }

    fn member(&self, place: usize, axis: Axis, role: Role, units: &[Unit]) -> Member {
        let parameter = &self.walk.trace.view.parameters[place];
        let units = units.iter().map(|unit| unit.get(&axis).cloned().unwrap_or_default()).collect();
        Member { name: parameter.name.clone(), path: parameter.path.clone(), axis: axis.1, role, units }
    }

    /// Field paths of the layers that average over entries of these units.
    fn averaged_by(&mut self, units: &[Unit]) -> Vec<String> {
        let firsts = &self.walk.firsts;
        let ids: Vec<u32> = units
            .iter()
            .flatten()
            .filter_map(|(&(number, axis), indices)| Some(firsts[number][axis]? + indices[0] as u32))
            .collect();
        let classes: BTreeSet<u32> = ids.into_iter().map(|id| self.walk.labels.class(id)).collect();
        let mut layers = BTreeSet::new();
        for number in 0..self.walk.averages.len() {
            let average = &self.walk.averages[number];
            let (labels, layer) = (average.labels.clone(), average.layer);
            if !self.walk.classes(&labels).is_disjoint(&classes) {
                layers.extend(layer);
            }
        }
        let mut paths: Vec<String> = Vec::new();
        for layer in layers {
            let path = &self.walk.trace.parameters[layer].module;
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        paths
    }
}
