//! Groups and meters as `ovs-ofctl` 3.1.0 has them: each text was given to
//! `ovs-ofctl -O OpenFlow15 add-group` (`-O OpenFlow13 add-meter`) on a dummy
//! bridge; beside it stands what `dump-groups` (`dump-meters`) printed.

use super::{Named, Ports};
use crate::text::{
    parse_group, parse_group_id, parse_meter, parse_meter_id, print_group, print_meter,
};

const GROUPS: &[(&str, &str)] = &[
    (
        "group_id=11,type=all,bucket=actions=output:1",
        "group_id=11,type=all,bucket=bucket_id:0,actions=output:1",
    ),
    (
        "group_id=11,type=all,bucket=output:1,bucket=output:2",
        "group_id=11,type=all,bucket=bucket_id:0,actions=output:1,bucket=bucket_id:1,actions=output:2",
    ),
    (
        "group_id=11,type=all,bucket=actions=output:1,output:2,bucket=actions=set_field:5->reg0,3",
        "group_id=11,type=all,bucket=bucket_id:0,actions=output:1,output:2,bucket=bucket_id:1,actions=set_field:0x5->reg0,output:3",
    ),
    (
        "group_id=11,type=select,bucket=weight:5,output:1,bucket=actions=2",
        "group_id=11,type=select,bucket=bucket_id:0,weight:5,actions=output:1,bucket=bucket_id:1,actions=output:2",
    ),
    (
        "group_id=11,type=select,bucket=weight=0,actions=1",
        "group_id=11,type=select,bucket=bucket_id:0,weight:0,actions=output:1",
    ),
    (
        "group_id=11,type=select,selection_method=hash,fields(ip_src,tcp_dst),bucket=output:1",
        "group_id=11,type=select,selection_method=hash,fields(ip_src,tcp_dst),bucket=bucket_id:0,actions=output:1",
    ),
    (
        "group_id=11,type=select,selection_method=hash,fields=ip_src,bucket=output:1",
        "group_id=11,type=select,selection_method=hash,fields=ip_src,bucket=bucket_id:0,actions=output:1",
    ),
    (
        "group_id=11,type=select,selection_method=hash,fields(nw_dst,eth_src,vlan_vid,ipv6_src,nw_proto),bucket=output:1",
        "group_id=11,type=select,selection_method=hash,fields(eth_src,vlan_vid,ip_dst,ipv6_src,nw_proto),bucket=bucket_id:0,actions=output:1",
    ),
    (
        "group_id=11,type=indirect,bucket=output:1",
        "group_id=11,type=indirect,bucket=bucket_id:0,actions=output:1",
    ),
    ("group_id=11,type=all", "group_id=11,type=all"),
    (
        "group_id=11,type=ff,bucket=watch_port:1,actions=output:1,bucket=watch_port:p-2,actions=2",
        "group_id=11,type=ff,bucket=bucket_id:0,watch_port:1,actions=output:1,bucket=bucket_id:1,watch_port:2,actions=output:2",
    ),
    (
        "group_id=11,type=fast_failover,bucket=watch_group:3,output:1",
        "group_id=11,type=ff,bucket=bucket_id:0,watch_group:3,actions=output:1",
    ),
    (
        "group_id=11,type=all,bucket=bucket_id:7,output:1,bucket=output:2,bucket=bucket_id:0,output:1",
        "group_id=11,type=all,bucket=bucket_id:7,actions=output:1,bucket=bucket_id:1,actions=output:2,bucket=bucket_id:0,actions=output:1",
    ),
    (
        "group_id=11,type=all,bucket=drop",
        "group_id=11,type=all,bucket=bucket_id:0,actions=drop",
    ),
    (
        "group_id=11,type=all,bucket=actions=drop",
        "group_id=11,type=all,bucket=bucket_id:0,actions=drop",
    ),
    (
        "group_id=11,type=all,bucket=meter:1,output:1",
        "group_id=11,type=all,bucket=bucket_id:0,actions=meter:1,output:1",
    ),
    (
        "group_id=11,type=all,bucket=push_vlan:0x8100,set_field:4101->vlan_vid,1",
        "group_id=11,type=all,bucket=bucket_id:0,actions=push_vlan:0x8100,set_field:4101->vlan_vid,output:1",
    ),
    (
        "group_id=11,type=all,bucket=group:5",
        "group_id=11,type=all,bucket=bucket_id:0,actions=group:5",
    ),
    (
        "group_id=11,type=all,bucket=resubmit(,3)",
        "group_id=11,type=all,bucket=bucket_id:0,actions=resubmit(,3)",
    ),
    (
        "group_id=11,type=all bucket=actions=1 bucket=actions=2",
        "group_id=11,type=all,bucket=bucket_id:0,actions=output:1,bucket=bucket_id:1,actions=output:2",
    ),
    (
        "group_id=11,type=select,selection_method=hash,fields(ip_src=255.255.255.255),bucket=1",
        "group_id=11,type=select,selection_method=hash,fields=ip_src,bucket=bucket_id:0,actions=output:1",
    ),
];

const REFUSED_GROUPS: &[&str] = &[
    "group_id=11,type=select,fields=ip_src,bucket=output:1",
    "group_id=11,type=all,selection_method=hash,fields=ip_src,bucket=output:1",
    "group_id=11,type=indirect,bucket=output:1,bucket=2",
    "group_id=11,type=indirect",
    "group_id=11,type=ff,bucket=output:1",
    "group_id=11,type=all,bucket=weight:3,output:1",
    "group_id=11,type=all,bucket=bucket_id:7,output:1,bucket=bucket_id:7,output:2",
    "group_id=11,type=all,bucket=watch_port:1",
    "group_id=11,type=foo,bucket=1",
    "group_id=11",
    "type=all",
    "group_id=foo,type=all",
    "group_id=4294967295,type=all",
    "group_id=11,type=all,foo=1",
    "group_id=11,type=all,bucket=goto_table:1",
    "group_id=11,type=select,bucket=weight:70000,1",
    "group_id=11,type=select,selection_method=foo,bucket=1",
    "group_id=11,type=select,selection_method=hash,fields(ip_src,ip_src),bucket=1",
];

const METERS: &[(&str, &str)] = &[
    (
        "meter=1,kbps,bands=type=drop,rate=1000",
        "meter=1 kbps bands=\ntype=drop rate=1000",
    ),
    (
        "meter=1,kbps,burst,bands=type=drop,rate=1000,burst_size=100",
        "meter=1 kbps burst bands=\ntype=drop rate=1000 burst_size=100",
    ),
    (
        "meter=1 pktps burst stats bands=type=drop rate=5 burst_size=10",
        "meter=1 pktps burst stats bands=\ntype=drop rate=5 burst_size=10",
    ),
    (
        "meter=1,pktps,stats,band=type=drop,rate=5",
        "meter=1 pktps stats bands=\ntype=drop rate=5",
    ),
];

const REFUSED_METERS: &[&str] = &[
    "meter=1,bands=type=drop,rate=5",
    "meter=1,kbps,pktps,bands=type=drop,rate=5",
    "meter=1,stats,bands=type=drop,rate=5",
    "meter=0,kbps,bands=type=drop,rate=5",
    "kbps,bands=type=drop,rate=5",
    "meter=1,kbps",
    "meter=1,kbps,bands=",
    "meter=1,kbps,bands=type=drop",
    "meter=1,kbps,bands=rate=5",
    "meter=1,kbps,bands=type=drop,rate=0",
    "meter=1,kbps,burst,bands=type=drop,rate=5",
    "meter=1,kbps,bands=type=drop,rate=5,burst_size=3",
    "meter=1,kbps,bands=type=dscp_remark,rate=5,prec_level=1",
    "meter=1,kbps,bands=type=foo,rate=5",
    "meter=1,foo,kbps,bands=type=drop,rate=5",
    "meter=4294901761,kbps,bands=type=drop,rate=5",
    "meter=all,kbps,bands=type=drop,rate=5",
    "meter=1,kbps,bands=type=drop,rate=5,prec_level=1",
];

#[test]
fn groups_are_printed_as_open_vswitch_prints_them() {
    for (text, printed) in GROUPS {
        let group = parse_group(text, &Ports);
        let group = group.unwrap_or_else(|error| panic!("{text}:\n{error}"));
        assert_eq!(print_group(&group, &Ports), *printed, "{text}");
        // Whatever is printed reads back.
        let named = print_group(&group, &Named);
        assert_eq!(parse_group(printed, &Ports).as_ref(), Ok(&group));
        assert_eq!(parse_group(&named, &Ports), Ok(group));
    }
}

#[test]
fn groups_that_open_vswitch_refuses_are_refused() {
    for text in REFUSED_GROUPS {
        let group = parse_group(text, &Ports);
        assert!(group.is_err(), "{text} was read as {group:?}");
    }
}

#[test]
fn meters_are_printed_as_open_vswitch_prints_them() {
    for (text, printed) in METERS {
        let meter = parse_meter(text).unwrap_or_else(|error| panic!("{text}:\n{error}"));
        assert_eq!(print_meter(&meter), *printed, "{text}");
        assert_eq!(parse_meter(printed), Ok(meter));
    }
}

#[test]
fn meters_that_open_vswitch_refuses_are_refused() {
    for text in REFUSED_METERS {
        let meter = parse_meter(text);
        assert!(meter.is_err(), "{text} was read as {meter:?}");
    }
}

#[test]
fn one_or_all_are_named() {
    assert_eq!(parse_group_id("group_id=5"), Ok(Some(5)));
    assert_eq!(parse_group_id("group_id=all"), Ok(None));
    assert_eq!(parse_group_id(""), Ok(None));
    assert!(parse_group_id("group=5").is_err());
    assert_eq!(parse_meter_id("meter=5"), Ok(Some(5)));
    assert_eq!(parse_meter_id("meter=all"), Ok(None));
    assert_eq!(parse_meter_id(""), Ok(None));
    assert!(parse_meter_id("5").is_err());
}
