//! Volumes of pods: one source each, and what it must have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::env;
use crate::{
    quantity::Quantity,
    rules::{
        field::{Field, Report},
        text,
    },
};

/// Checks of a source beyond fields that it must have.
type Check = fn(&Field<'_, '_>, &mut Report);

const NOTHING: Check = |_, _| {};
const MODE_WORDS: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATHS: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// Seconds that a token of an account lives at least and at most.
const TOKEN_S: (i64, i64) = (600, 1 << 32);

/// All sources in upstream's order, with the fields that they must have.
const SOURCES: [(&str, &[&str], Check); 30] = [
    ("emptyDir", &[], empty_dir),
    ("hostPath", &["path"], host_path),
    ("gitRepo", &["repository"], NOTHING),
    ("gcePersistentDisk", &["pdName"], NOTHING),
    ("awsElasticBlockStore", &["volumeID"], NOTHING),
    ("secret", &["secretName"], files),
    ("nfs", &["server", "path"], nfs),
    ("iscsi", &["targetPortal", "iqn"], NOTHING),
    ("glusterfs", &["endpoints", "path"], NOTHING),
    ("flocker", &[], NOTHING),
    ("persistentVolumeClaim", &["claimName"], NOTHING),
    ("rbd", &["monitors", "image"], NOTHING),
    ("cinder", &["volumeID"], NOTHING),
    ("cephfs", &["monitors"], NOTHING),
    ("quobyte", &["registry", "volume"], NOTHING),
    ("downwardAPI", &[], downward),
    ("fc", &[], NOTHING),
    ("flexVolume", &["driver"], NOTHING),
    ("configMap", &["name"], files),
    ("azureFile", &["secretName", "shareName"], NOTHING),
    ("vsphereVolume", &["volumePath"], NOTHING),
    ("photonPersistentDisk", &["pdID"], NOTHING),
    ("portworxVolume", &["volumeID"], NOTHING),
    ("azureDisk", &["diskName", "diskURI"], NOTHING),
    ("storageos", &[], NOTHING),
    ("projected", &[], projected),
    ("scaleIO", &["gateway", "system", "volumeName"], NOTHING),
    ("csi", &["driver"], NOTHING),
    ("ephemeral", &["volumeClaimTemplate"], NOTHING),
    ("image", &[], image),
];

/// Volumes without faults, by name; the others are reported.
pub(super) fn volumes<'v>(
    volumes: &Field<'_, 'v>,
    pod_name: Option<&str>,
    report: &mut Report,
) -> BTreeMap<&'v str, &'v Value> {
    let mut good = BTreeMap::new();
    let claims: BTreeSet<String> = volumes
        .items()
        .filter(|volume| volume.get("ephemeral").is_set())
        .filter_map(|volume| Some(format!("{}-{}", pod_name?, volume.text_at(&["name"]))))
        .collect();
    for volume in volumes.items() {
        let before = report.len();
        source(&volume, pod_name.is_some(), report);
        let name = volume.get("name");
        if name.text().is_empty() {
            report.required(&name, "");
        } else {
            report.invalid_all(&name, &text::dns_label(name.text()));
        }
        if good.contains_key(name.text()) {
            report.duplicate(&name);
        }
        if let (true, Some(value)) = (report.len() == before, volume.value()) {
            good.insert(name.text(), value);
        }
        let claim = volume.get("persistentVolumeClaim");
        let claim_name = claim.get("claimName");
        if claims.contains(claim_name.text()) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            report.invalid(&claim_name, why);
        }
    }
    good
}

fn source(volume: &Field<'_, '_>, is_pod: bool, report: &mut Report) {
    let mut has_one = false;
    for (field, required, check) in SOURCES {
        let source = volume.get(field);
        if !source.is_set() {
            continue;
        }
        if has_one {
            report.forbidden(&source, "may not specify more than 1 volume type");
            continue;
        }
        has_one = true;
        for field in required {
            let needed = source.get(field);
            let is_empty =
                needed.text().is_empty() && needed.list().is_empty() && needed.len() == 0;
            if is_empty {
                report.required(&needed, "");
            }
        }
        if field == "image" && is_pod && source.text_at(&["reference"]).is_empty() {
            report.required(&source.get("reference"), "");
        }
        check(&source, report);
    }
    if !has_one {
        report.required(volume, "must specify a volume type");
    }
}

fn empty_dir(source: &Field<'_, '_>, report: &mut Report) {
    let limit = source.get("sizeLimit");
    let amount = limit.value().map(Quantity::of);
    if amount.is_some_and(|amount| amount.is_ok_and(Quantity::is_negative) || amount.is_err()) {
        report.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(source: &Field<'_, '_>, report: &mut Report) {
    let path = source.get("path");
    if path.text().is_empty() {
        return;
    }
    report.invalid_all(&path, &text::no_backsteps(path.text()));
    report.one_of(&source.get("type"), &HOST_PATHS);
}

fn nfs(source: &Field<'_, '_>, report: &mut Report) {
    let path = source.get("path");
    if !path.text().starts_with('/') {
        report.invalid(&path, "must be an absolute path");
    }
}

fn image(source: &Field<'_, '_>, report: &mut Report) {
    report.required_one_of(&source.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
}

fn mode(at: &Field<'_, '_>, report: &mut Report) {
    if at.number().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        report.invalid(at, MODE_WORDS);
    }
}

fn files(source: &Field<'_, '_>, report: &mut Report) {
    mode(&source.get("defaultMode"), report);
    let items = source.get("items");
    items.items().for_each(|item| key_to_path(&item, report));
}

fn key_to_path(item: &Field<'_, '_>, report: &mut Report) {
    for field in ["key", "path"] {
        if item.text_at(&[field]).is_empty() {
            report.required(&item.get(field), "");
        }
    }
    let path = item.get("path");
    report.invalid_all(&path, &text::plain_path(path.text()));
    mode(&item.get("mode"), report);
}

fn downward(source: &Field<'_, '_>, report: &mut Report) {
    mode(&source.get("defaultMode"), report);
    let items = source.get("items");
    for item in items.items() {
        // Upstream reports files of this volume at the volume.
        downward_file(&source.with(item.value()), report);
    }
}

fn downward_file(file: &Field<'_, '_>, report: &mut Report) {
    let path = file.get("path");
    if path.text().is_empty() {
        report.required(&path, "");
    }
    report.invalid_all(&path, &text::plain_path(path.text()));
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.is_set() {
        env::field_reference(&field, &env::FIELDS_OF_FILES, report);
        if resource.is_set() {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            report.invalid_as(file, &json!("resource"), why);
        }
    } else if resource.is_set() {
        env::resource_reference(&resource, true, report);
    } else {
        report.required(file, "one of fieldRef and resourceFieldRef is required");
    }
    mode(&file.get("mode"), report);
}

fn projected(source: &Field<'_, '_>, report: &mut Report) {
    mode(&source.get("defaultMode"), report);
    let mut paths = BTreeSet::new();
    let sources = source.get("sources");
    for part in sources.items() {
        let kinds =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"];
        let given = kinds.into_iter().filter(|kind| part.get(kind).is_set()).count();
        for kind in ["secret", "configMap"] {
            let from = part.get(kind);
            if !from.is_set() {
                continue;
            }
            if from.text_at(&["name"]).is_empty() {
                report.required(&from.get("name"), "");
            }
            let items = from.get("items");
            for item in items.items() {
                key_to_path(&item, report);
                let path = item.text_at(&["path"]);
                if !path.is_empty() && !paths.insert(path) {
                    let name = json!(from.text_at(&["name"]));
                    report.invalid_as(source, &name, "conflicting duplicate paths");
                }
            }
        }
        let downward = part.get("downwardAPI");
        let items = downward.get("items");
        for item in items.items() {
            downward_file(&downward.with(item.value()), report);
            let path = item.text_at(&["path"]);
            if !path.is_empty() && !paths.insert(path) {
                report.invalid_as(source, &json!(path), "conflicting duplicate paths");
            }
        }
        token(&part.get("serviceAccountToken"), source, report);
        if given > 1 {
            report.forbidden(&part, "may not specify more than 1 volume type per source");
        }
    }
}

fn token(token: &Field<'_, '_>, volume: &Field<'_, '_>, report: &mut Report) {
    if !token.is_set() {
        return;
    }
    let expires = token.get("expirationSeconds");
    let seconds = expires.number().unwrap_or(0);
    if seconds < TOKEN_S.0 {
        let why = "may not specify a duration less than 10 minutes";
        report.invalid_number(&expires, why);
    }
    if seconds > TOKEN_S.1 {
        report.invalid_number(&expires, "may not specify a duration larger than 2^32 seconds");
    }
    let path = token.get("path");
    let shown = volume.get("path").with(path.value());
    if path.text().is_empty() {
        report.required(&shown, "");
    } else {
        report.invalid_all(&shown, &text::plain_path(path.text()));
    }
}
