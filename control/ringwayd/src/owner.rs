//! `USER[:GROUP]` to numeric ids.

use nix::unistd::{Group, Uid, User};

/// Asks once for a name that nobody has: whatever libraries the system looks
/// names up with are loaded now, for later none can be.
pub fn load_name_services() {
    let _ = User::from_name("ringway-nobody-has-this-name");
    let _ = Group::from_name("ringway-nobody-has-this-name");
}

/// Checks the form only; whether the names exist may change any time.
pub fn check_form(owner: &str) -> Result<(), String> {
    let (user, group) = owner.split_once(':').unwrap_or((owner, "-"));
    let bad = |part: &str| part.is_empty() || part.contains([':', ' ', '\0', '\n']);
    if bad(user) || bad(group) {
        return Err(format!("owner {owner:?} is not of the form USER[:GROUP]"));
    }
    Ok(())
}

/// The ids of an owner. Without a group it is the user's primary group.
pub fn resolve(owner: &str) -> Result<(u32, u32), String> {
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner, None),
    };
    match group {
        Some(group) => Ok((user_id(user)?, group_id(group)?)),
        None => Ok((user_id(user)?, primary_group(user)?)),
    }
}

fn user_id(user: &str) -> Result<u32, String> {
    if let Ok(id) = user.parse() {
        return Ok(id);
    }
    match User::from_name(user) {
        Ok(Some(found)) => Ok(found.uid.as_raw()),
        Ok(None) => Err(format!("owner: there is no user {user:?} on this host")),
        Err(errno) => Err(format!("owner: user {user:?} cannot be looked up: {errno}")),
    }
}

/// The id of a group.
pub fn group_id(group: &str) -> Result<u32, String> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(format!("there is no group {group:?} on this host")),
        Err(errno) => Err(format!("group {group:?} cannot be looked up: {errno}")),
    }
}

fn primary_group(user: &str) -> Result<u32, String> {
    let found = match user.parse() {
        Ok(id) => User::from_uid(Uid::from_raw(id)),
        Err(_) => User::from_name(user),
    };
    match found {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        _ => Err(format!(
            "owner: the primary group of {user:?} is not known here; say USER:GROUP"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_resolve() {
        assert_eq!(resolve("root"), Ok((0, 0)));
        assert_eq!(resolve("0"), Ok((0, 0)));
        assert_eq!(resolve("root:root"), Ok((0, 0)));
        assert_eq!(resolve("4242:4343"), Ok((4242, 4343)));
    }

    #[test]
    fn unknown_names_are_told() {
        assert!(resolve("no-such-user").unwrap_err().contains("no user"));
        assert!(resolve("0:no-such-group").unwrap_err().contains("no group"));
        assert!(resolve("4242424242").is_err());
        assert!(resolve("3999999").unwrap_err().contains("USER:GROUP"));
        for bad in ["", ":", "root:", ":root", "a:b:c", "a b"] {
            assert!(check_form(bad).is_err(), "{bad}");
        }
    }
}
