use super::*;
use crate::rule::FlowCommand;

#[test]
fn a_flow_comes_back_as_it_was_written() {
    let text =
        "cookie=0x5, idle_timeout=3, priority=5,tcp,nw_src=10.0.0.0/8,tp_dst=80 actions=output:1";
    let flow = parse_flow(text, FlowCommand::Add, &NoNames).unwrap();
    assert_eq!(flow.warnings, [""; 0]);
    assert_eq!(print_spec(&flow.value, &NoNames), text);
}
