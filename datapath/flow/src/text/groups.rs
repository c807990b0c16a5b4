//! Groups from text.

use std::collections::HashSet;

use super::TextError;
use super::actions::{Place, Reader};
use super::names::{field, unknown_field};
use super::ports::{self, PORT_MAX, PortNames, parse_port};
use super::scan::{Item, Items, Scan, fault, integer, number16, number32};
use super::values::full_mask;
use crate::action::{Bucket, GroupSpec, GroupType};
use crate::field::Field;

/// Highest id of a group and of a bucket (OFPG_MAX, OFPG15_BUCKET_MAX).
const MAX_ID: u32 = 0xffff_ff00;
/// Before a bucket.
const BUCKET: &str = "bucket=";

/// Reads a group: `group_id=1,type=select,bucket=weight:5,actions=output:1,bucket=…`.
/// Buckets without a `bucket_id` get the lowest free ones.
pub fn parse_group(text: &str, ports: &dyn PortNames) -> Result<GroupSpec, TextError> {
    read_group(text, ports).map_err(|fault| TextError::new(fault, text, None))
}

/// Reads which groups to delete or show: `group_id=1`, `group_id=all` or nothing
/// (`None`: all).
pub fn parse_group_id(text: &str) -> Result<Option<u32>, TextError> {
    read_group_id(text).map_err(|fault| TextError::new(fault, text, None))
}

pub(super) fn read_group_id(text: &str) -> Scan<'_, Option<u32>> {
    let mut id = None;
    let mut items = Items::of(text);
    while let Some(item) = items.next()? {
        match (item.key, item.value) {
            ("group_id", "all") => id = None,
            ("group_id", value) => id = Some(group_id(value)?),
            _ => return fault!(item.all, "a group is named by group_id=N or group_id=all"),
        }
    }
    Ok(id)
}

fn group_id(text: &str) -> Scan<'_, u32> {
    match number32(text, "a group's id")? {
        id if id > MAX_ID => fault!(text, "a group's id is at most {MAX_ID}"),
        id => Ok(id),
    }
}

pub(super) fn read_group<'t>(text: &'t str, ports: &dyn PortNames) -> Scan<'t, GroupSpec> {
    let buckets_at = text.find(BUCKET).unwrap_or(text.len());
    let (head, buckets) = text.split_at(buckets_at);
    let (mut id, mut kind, mut method, mut fields) = (None, None, None, None);
    let mut items = Items::of(head);
    while let Some(item) = items.next()? {
        let Item { key, value, all } = item;
        match key {
            "group_id" => id = Some(group_id(value)?),
            "type" => {
                kind = Some(match value {
                    "all" => GroupType::All,
                    "select" => GroupType::Select,
                    "indirect" => GroupType::Indirect,
                    "ff" | "fast_failover" => GroupType::FastFailover,
                    _ => return fault!(value, "types are all, select, indirect and ff"),
                });
            }
            "selection_method" if matches!(value, "hash" | "dp_hash") => method = Some(item),
            "selection_method" => {
                return fault!(
                    value,
                    "selection methods are hash (with fields) and dp_hash"
                );
            }
            "selection_method_param" if integer(value) == Some(0) => {}
            "selection_method_param" => {
                return fault!(
                    all,
                    "selection_method_param is not supported: hashes have no seed"
                );
            }
            "fields" => fields = Some((item, hash_fields(value)?)),
            "command_bucket_id" => {
                return fault!(
                    all,
                    "single buckets are not changed: modify the whole group"
                );
            }
            _ => {
                return fault!(
                    key,
                    "unknown keyword \"{key}\": a group has group_id, type, selection_method, \
                     fields and bucket"
                );
            }
        }
    }
    let Some(id) = id else {
        return fault!(&text[..0], "a group needs its group_id=N");
    };
    let Some(kind) = kind else {
        return fault!(
            &text[..0],
            "a group needs a type=all, select, indirect or ff"
        );
    };
    if let Some(method) = method.filter(|_| kind != GroupType::Select) {
        return fault!(method.all, "only groups of type=select choose by a method");
    }
    let hash_fields = match (fields, method) {
        (None, _) => Vec::new(),
        (Some((_, fields)), Some(method)) if method.value == "hash" => fields,
        (Some((item, _)), _) => {
            return fault!(item.all, "fields go with selection_method=hash only");
        }
    };

    let mut group = GroupSpec {
        id,
        kind,
        hash_fields,
        buckets: Vec::new(),
    };
    let mut ids = Vec::new();
    let mut taken = HashSet::new();
    let mut rest = buckets;
    while let Some(behind) = rest.strip_prefix(BUCKET) {
        let end = behind.find(BUCKET).unwrap_or(behind.len());
        let (bucket, bucket_id) = read_bucket(&behind[..end], kind, ports)?;
        if kind == GroupType::Indirect && !group.buckets.is_empty() {
            return fault!(&behind[..end], "an indirect group has one bucket only");
        }
        if let Some((at, id)) = bucket_id
            && !taken.insert(id)
        {
            return fault!(at, "bucket_id {id} is there twice");
        }
        ids.push(bucket_id.map(|(_, id)| id));
        group.buckets.push(bucket);
        rest = &behind[end..];
    }
    if kind == GroupType::Indirect && group.buckets.is_empty() {
        return fault!(&text[text.len()..], "an indirect group needs its bucket");
    }
    let mut next = 0;
    for (bucket, id) in group.buckets.iter_mut().zip(ids) {
        bucket.id = id.unwrap_or_else(|| {
            while taken.contains(&next) {
                next += 1;
            }
            next += 1;
            next - 1
        });
    }
    Ok(group)
}

/// `fields(ip_src,tcp_dst)`
fn hash_fields(text: &str) -> Scan<'_, Vec<Field>> {
    let mut fields = Vec::new();
    let mut items = Items::of(text);
    while let Some(item) = items.next()? {
        let Some(field) = field(item.key) else {
            return Err(unknown_field(item.key, "field"));
        };
        if fields.contains(&field) {
            return fault!(item.key, "field {} is there twice", item.key);
        }
        let whole = item.value.is_empty()
            || integer(item.value) == Some(full_mask(field))
            || super::values::masked(field, item.value, &super::NoNames)
                .is_ok_and(|(value, _)| value == full_mask(field));
        if !whole {
            return fault!(
                item.all,
                "masks are not supported here: whole fields are hashed"
            );
        }
        fields.push(field);
    }
    fields.sort_unstable_by_key(|field| (rank(*field), *field));
    Ok(fields)
}

/// Open vSwitch prints fields in the order of its own list, in which these come
/// before those that matches print first.
fn rank(field: Field) -> u8 {
    match field {
        Field::TunId | Field::Metadata | Field::InPort => 0,
        _ if field < Field::TunId => 1,
        Field::EthSrc | Field::EthDst | Field::EthType => 2,
        _ => 3,
    }
}

/// A bucket, and its `bucket_id` if there is one.
type ReadBucket<'t> = (Bucket, Option<(&'t str, u32)>);

fn read_bucket<'t>(
    text: &'t str,
    kind: GroupType,
    ports: &dyn PortNames,
) -> Scan<'t, ReadBucket<'t>> {
    let mut bucket = Bucket {
        id: 0,
        weight: u16::from(kind == GroupType::Select),
        watch_port: None,
        watch_group: None,
        actions: Vec::new(),
    };
    let mut id = None;
    let mut has_actions = false;
    let mut reader = Reader::new(ports, Place::List);
    let mut items = Items::of(text);
    while let Some(item) = items.next()? {
        let Item { key, value, all } = item;
        match key.to_ascii_lowercase().as_str() {
            "weight" => {
                bucket.weight = number16(value, "the weight")?;
                if kind != GroupType::Select && bucket.weight != 0 {
                    return fault!(all, "only the buckets of select groups have weights");
                }
            }
            "watch_port" => {
                bucket.watch_port = match parse_port(value, ports) {
                    Some(ports::ANY) => None,
                    Some(port) if port < PORT_MAX || port == ports::LOCAL => Some(port),
                    Some(_) => return fault!(value, "port {value} cannot be watched"),
                    None => return fault!(value, "there is no port \"{value}\""),
                }
            }
            "watch_group" => bucket.watch_group = Some(group_id(value)?),
            "bucket_id" => match number32(value, "the bucket's id")? {
                number if number > MAX_ID => {
                    return fault!(value, "a bucket's id is at most {MAX_ID}");
                }
                number => id = Some((all, number)),
            },
            "action" | "actions" => {
                has_actions = true;
                let mut inner = Items::of(value);
                while let Some(item) = inner.next()? {
                    reader.item(item, &mut bucket.actions)?;
                }
            }
            // The actions behind the first.
            _ => {
                has_actions = true;
                reader.item(item, &mut bucket.actions)?;
            }
        }
    }
    reader.finish(&bucket.actions)?;
    if !has_actions {
        return fault!(text, "a bucket needs actions: bucket=actions=output:1");
    }
    let watches = bucket.watch_port.is_some() || bucket.watch_group.is_some();
    if kind == GroupType::FastFailover && !watches {
        return fault!(
            text,
            "a bucket of a fast-failover group needs watch_port or watch_group"
        );
    }
    Ok((bucket, id))
}
