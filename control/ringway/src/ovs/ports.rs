//! ovs-vsctl's commands about bridges and ports.

use super::datum::{Atom, Datum};
use super::records::{Bridge, Database, Port};
use super::rows;
use super::schema::PORT;
use super::syntax::{Command, Output, Session, Stop, fatal};

type Done = Result<Output, Stop>;

fn silent() -> Done {
    Ok(Output::Text(String::new()))
}

fn line(text: &str) -> Done {
    Ok(Output::Text(format!("{text}\n")))
}

fn lines(mut names: Vec<String>) -> Done {
    names.sort_unstable();
    Ok(Output::Text(
        names.iter().map(|name| format!("{name}\n")).collect(),
    ))
}

fn expect_bridge<'a>(db: &'a Database, name: &str) -> Result<&'a Bridge, Stop> {
    db.bridge(name)
        .ok_or_else(|| Stop::Fatal(format!("no bridge named {name}")))
}

fn bridge_mut<'a>(db: &'a mut Database, name: &str) -> Result<&'a mut Bridge, Stop> {
    let found = db.bridges.iter_mut().find(|bridge| bridge.name() == name);
    found.ok_or_else(|| Stop::Fatal(format!("no bridge named {name}")))
}

fn check_conflicts(db: &Database, name: &str, what: &str) -> Result<(), Stop> {
    if db.bridge(name).is_some() {
        return fatal(format!(
            "{what} because a bridge named {name} already exists"
        ));
    }
    if let Some((bridge, _)) = db.port(name) {
        let bridge = bridge.name();
        return fatal(format!(
            "{what} because a port named {name} already exists on bridge {bridge}"
        ));
    }
    Ok(())
}

/// Does nothing, for what ringway needs not or has none of.
pub fn nothing(_: &Command, _: &mut Session) -> Done {
    silent()
}

/// The same, of a bridge that must be there.
pub fn nothing_of_bridge(command: &Command, session: &mut Session) -> Done {
    expect_bridge(&session.db, command.arg(0))?;
    silent()
}

/// `add-br BRIDGE`
pub fn add_br(command: &Command, session: &mut Session) -> Done {
    let name = command.arg(0);
    if name.is_empty() {
        return fatal("bridge name must not be empty string");
    }
    match command.args.len() {
        1 => {}
        3 => {
            return fatal(format!(
                "add-br BRIDGE PARENT VLAN is not supported: ringway has no fake bridges; give the \
                 ports of {} a tag={} instead",
                command.arg(1),
                command.arg(2)
            ));
        }
        _ => return fatal("'add-br' command takes exactly 1 or 3 arguments"),
    }
    if command.has("--may-exist") && session.db.bridge(name).is_some() {
        return silent();
    }
    check_conflicts(
        &session.db,
        name,
        &format!("cannot create a bridge named {name}"),
    )?;
    session.db.bridges.push(Bridge::new(name));
    session.new_ports.push(name.to_owned());
    silent()
}

/// `del-br BRIDGE`
pub fn del_br(command: &Command, session: &mut Session) -> Done {
    let name = command.arg(0);
    if !command.has("--if-exists") {
        expect_bridge(&session.db, name)?;
    }
    session.db.bridges.retain(|bridge| bridge.name() != name);
    silent()
}

/// `list-br`; no bridge is a fake one.
pub fn list_br(command: &Command, session: &mut Session) -> Done {
    match command.has("--fake") && !command.has("--real") {
        true => silent(),
        false => lines(session.db.bridges.iter().map(Bridge::name).collect()),
    }
}

/// `br-exists BRIDGE`
pub fn br_exists(command: &Command, session: &mut Session) -> Done {
    match session.db.bridge(command.arg(0)) {
        Some(_) => silent(),
        None => Err(Stop::Exit(2)),
    }
}

/// `br-to-vlan BRIDGE`
pub fn br_to_vlan(command: &Command, session: &mut Session) -> Done {
    expect_bridge(&session.db, command.arg(0))?;
    line("0")
}

/// `br-to-parent BRIDGE`
pub fn br_to_parent(command: &Command, session: &mut Session) -> Done {
    line(&expect_bridge(&session.db, command.arg(0))?.name())
}

/// `br-set-external-id BRIDGE KEY [VALUE]`
pub fn br_set_external_id(command: &Command, session: &mut Session) -> Done {
    let bridge = bridge_mut(&mut session.db, command.arg(0))?;
    let mut ids = bridge.row.value("external_ids");
    let key = Atom::text(command.arg(1));
    match command.args.get(2) {
        Some(value) => ids.0.insert(key, Some(Atom::text(value))),
        None => ids.0.remove(&key).flatten().map(Some),
    };
    bridge.row.put("external_ids", ids);
    silent()
}

/// `br-get-external-id BRIDGE [KEY]`
pub fn br_get_external_id(command: &Command, session: &mut Session) -> Done {
    let ids = expect_bridge(&session.db, command.arg(0))?
        .row
        .value("external_ids");
    let text = match command.args.get(1) {
        Some(key) => ids
            .get(key)
            .map_or(String::new(), |value| format!("{value}\n")),
        None => ids
            .as_map()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect(),
    };
    Ok(Output::Text(text))
}

/// `list-ports BRIDGE`, without the bridge's own interface.
pub fn list_ports(command: &Command, session: &mut Session) -> Done {
    let bridge = expect_bridge(&session.db, command.arg(0))?;
    let names = bridge.ports.iter().map(Port::name);
    lines(names.filter(|name| name != command.arg(0)).collect())
}

/// `add-port BRIDGE PORT [COLUMN[:KEY]=VALUE]...`
pub fn add_port(command: &Command, session: &mut Session) -> Done {
    let (bridge, name) = (command.arg(0), command.arg(1));
    if name.is_empty() {
        return fatal("port name must not be empty string");
    }
    if command.has("--may-exist")
        && let Some((on, _)) = session.db.port(name)
    {
        let on = on.name();
        return match on == bridge {
            true => silent(),
            false => fatal(format!(
                "\"{}\" but {name} is actually attached to bridge {on}",
                command.shown()
            )),
        };
    }
    check_conflicts(
        &session.db,
        name,
        &format!("cannot create a port named {name}"),
    )?;
    let bridge = bridge_mut(&mut session.db, bridge)?;
    let mut port = Port::new(name);
    for setting in &command.args[2..] {
        let (column, value) = rows::setting(PORT, &port.row, setting)?;
        port.row.write(column, value)?;
    }
    bridge.ports.push(port);
    session.new_ports.push(name.to_owned());
    silent()
}

/// `del-port [BRIDGE] PORT`
pub fn del_port(command: &Command, session: &mut Session) -> Done {
    let target = command.args.last().map_or("", String::as_str);
    let must_exist = !command.has("--if-exists");
    if session.db.bridge(target).is_some() {
        return match must_exist {
            true => fatal(format!(
                "cannot delete port {target} because it is the local port for bridge {target} \
                 (deleting this port requires deleting the entire bridge)"
            )),
            false => silent(),
        };
    }
    let Some((on, _)) = session.db.port(target) else {
        return match (must_exist, command.has("--with-iface")) {
            (false, _) => silent(),
            (true, true) => fatal(format!("no port or interface named {target}")),
            (true, false) => fatal(format!("no port named {target}")),
        };
    };
    let on = on.name();
    if command.args.len() == 2 {
        let bridge = command.arg(0);
        expect_bridge(&session.db, bridge)?;
        if on != bridge {
            return fatal(format!("bridge {bridge} does not have a port {target}"));
        }
    }
    let bridge = bridge_mut(&mut session.db, &on)?;
    bridge.ports.retain(|port| port.name() != target);
    session.new_ports.retain(|name| name != target);
    silent()
}

fn on_bridge(command: &Command, session: &Session, what: &str) -> Done {
    let name = command.arg(0);
    match session.db.port(name) {
        Some((bridge, _)) => line(&bridge.name()),
        None => fatal(format!("no {what} named {name}")),
    }
}

/// `port-to-br PORT`
pub fn port_to_br(command: &Command, session: &mut Session) -> Done {
    on_bridge(command, session, "port")
}

/// `iface-to-br INTERFACE`
pub fn iface_to_br(command: &Command, session: &mut Session) -> Done {
    on_bridge(command, session, "interface")
}

/// `get-fail-mode BRIDGE`
pub fn get_fail_mode(command: &Command, session: &mut Session) -> Done {
    let bridge = expect_bridge(&session.db, command.arg(0))?;
    match bridge.row.value("fail_mode").as_text() {
        "" => silent(),
        mode => line(mode),
    }
}

/// `del-fail-mode BRIDGE`
pub fn del_fail_mode(command: &Command, session: &mut Session) -> Done {
    let bridge = bridge_mut(&mut session.db, command.arg(0))?;
    bridge.row.put("fail_mode", Datum::default());
    silent()
}

/// `set-fail-mode BRIDGE MODE`
pub fn set_fail_mode(command: &Command, session: &mut Session) -> Done {
    let bridge = bridge_mut(&mut session.db, command.arg(0))?;
    match command.arg(1) {
        mode @ ("standalone" | "secure") => bridge.row.put("fail_mode", Datum::text(mode)),
        _ => return fatal("fail-mode must be \"standalone\" or \"secure\""),
    }
    silent()
}
