//! Owns the tests of the core checks.

use super::super::Level;
use super::super::machine::tests::Scratch;
use super::super::parse::Task;
use super::*;

fn healthy() -> CoreFacts {
    CoreFacts {
        isolated: Ok(String::new()),
        nohz_full: Ok(String::new()),
        online: Ok("0-7".into()),
        quota: None,
        nodes: [(0, vec![0, 1, 2, 3]), (1, vec![4, 5, 6, 7])].into(),
        interface_nodes: [("eth0".to_owned(), 0)].into(),
        governors: [(0, "performance".to_owned()), (1, "performance".to_owned())].into(),
        siblings: [(0, vec![0, 8]), (1, vec![1, 9])].into(),
    }
}

/// Returns the only problem of cores 0 and 1, or of those that `change` chooses.
#[track_caller]
fn the_problem(change: impl FnOnce(&mut CoreFacts, &mut Chosen)) -> Finding {
    let (mut facts, mut chosen) = (healthy(), Chosen::these(vec![0, 1]));
    change(&mut facts, &mut chosen);
    let mut problems: Vec<_> =
        facts.judge(&chosen).into_iter().filter(|finding| finding.level > Level::Ok).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let finding = problems.remove(0);
    assert!(finding.cost.is_some() && finding.fix.is_some(), "{finding:?}");
    finding
}

#[test]
fn healthy_cores_pass() {
    let findings = healthy().judge(&Chosen::these(vec![0, 1]));
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    let findings = CoreFacts { governors: BTreeMap::new(), ..healthy() }.judge(&Chosen::these(vec![0, 1]));
    assert!(
        findings.iter().any(|finding| finding.check == "governor" && finding.what.contains("not checked"))
    );
}

#[test]
fn cores_with_problems() {
    let found = the_problem(|_, chosen| chosen.refused = Some("core 9 is not available".into()));
    assert_eq!((found.check, found.level), ("cores", Level::Fail));
    let found = the_problem(|facts, _| facts.isolated = Ok("2-3".into()));
    assert!(found.check == "isolation" && found.fix.unwrap().contains("--cores 2-3"));
    let quota = Quota { file: "cpu.max".into(), allowed: 150_000, period: 100_000 };
    let found = the_problem(|facts, _| facts.quota = Some(quota.clone()));
    assert!(found.check == "cpu-quota" && found.what.contains("1.50 cores"), "{found:?}");
    let found = the_problem(|_, chosen| *chosen = Chosen::these(vec![3, 4]));
    assert!(found.check == "numa" && found.fix.unwrap() == "set --cores 0-3");
    let found = the_problem(|_, chosen| *chosen = Chosen::these(vec![6]));
    assert!(found.check == "numa" && found.what.contains("eth0 is on NUMA node 0"));
    let found = the_problem(|facts, _| facts.governors = [(1, "powersave".to_owned())].into());
    assert!(found.check == "governor" && found.fix.unwrap().contains("cpupower -c 1 "));
    let found = the_problem(|facts, _| facts.siblings = [(0, vec![0, 1]), (1, vec![0, 1])].into());
    assert!(
        found.check == "smt"
            && found.what.ends_with(": 0+1")
            && found.fix.unwrap().starts_with("set --cores 0,")
    );
    assert_eq!(the_problem(|facts, _| facts.siblings = BTreeMap::new()).check, "smt");
    assert_eq!(the_problem(|facts, _| facts.online = Err(ReadError::Denied)).check, "isolation");
    let isolated = CoreFacts { isolated: Ok("0-2".into()), ..healthy() };
    assert_eq!(isolated.isolation(&Chosen::these(vec![0, 1])).level, Level::Ok, "one isolated core is used");
}

#[test]
fn a_fake_machine_is_read() {
    let scratch = Scratch::new(&[
        ("/proc/self/status", "Cpus_allowed_list:\t0-3\n"),
        ("/proc/self/cgroup", "4:cpu,cpuacct:/a\n0::/b/c\n1:memory:/x\n"),
        ("/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n"),
        ("/sys/fs/cgroup/b/cpu.max", "150000 100000\n"),
        ("/sys/fs/cgroup/b/c/cpu.max", "max 100000\n"),
        ("/sys/devices/system/node/node0/cpulist", "0-1\n"),
        ("/sys/devices/system/node/node1/cpulist", "2-3\n"),
        ("/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "ondemand\n"),
        ("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2-3\n"),
        ("/sys/class/net/eth0/operstate", "up"),
        ("/sys/class/net/eth0/device/numa_node", "-1\n"),
        ("/sys/class/net/eth1/operstate", "up"),
        ("/sys/class/net/eth1/device/numa_node", "1\n"),
    ]);
    let machine = scratch.machine();
    let chosen = Chosen::of(&Cores::List(vec![3, 2]), &machine);
    assert_eq!((chosen.cores(), chosen.workers(), &chosen.refused), ([2, 3].as_slice(), 2, &None));
    let facts = CoreFacts::read(&machine, &chosen);
    let file = "/sys/fs/cgroup/b/cpu.max".to_owned();
    assert_eq!(facts.quota, Some(Quota { file, allowed: 150_000, period: 100_000 }));
    assert_eq!(facts.nodes, [(0, vec![0, 1]), (1, vec![2, 3])].into());
    assert_eq!(facts.interface_nodes, [("eth1".to_owned(), 1)].into());
    assert_eq!(facts.governors, [(2, "ondemand".to_owned())].into());
    assert_eq!(facts.siblings, [(2, vec![2, 3])].into());

    assert_eq!(Chosen::of(&Cores::Auto, &machine).cores(), [0, 1, 2, 3]);
    assert_eq!(Chosen::of(&Cores::Floating(2), &machine).cores(), [0, 1, 2, 3]);
    assert!(Chosen::of(&Cores::List(vec![4]), &machine).refused.unwrap().contains("core 4"));
    let empty = Scratch::new(&[]);
    assert!(Chosen::of(&Cores::Auto, &empty.machine()).refused.is_some());
}

/// Two readings of the times of one core, with one thread that used all the time of programs.
fn samples(programs: u64, stolen: u64, thread: &str) -> [Sample; 2] {
    let reading = |programs: u64, stolen: u64| Sample {
        stat: Ok(format!("cpu0 {programs} 0 0 {} 0 0 0 {stolen} 0 0\n", 100 - programs - stolen)),
        softirqs: Err(ReadError::Absent),
        softnet: Err(ReadError::Absent),
        snmp: Err(ReadError::Absent),
        snmp6: Err(ReadError::Absent),
        udp: Err(ReadError::Absent),
        udp6: Err(ReadError::Absent),
        interfaces: BTreeMap::new(),
        tasks: [(7, Task { name: thread.into(), ticks: programs, core: 0 })].into(),
    };
    let mut first = reading(0, 0);
    first.stat = Ok("cpu0 0 0 0 0 0 0 0 0 0 0\n".into());
    [first, reading(programs, stolen)]
}

#[test]
fn cores_used_by_other_programs() {
    let judge = |programs, stolen, thread| {
        let [before, after] = samples(programs, stolen, thread);
        busy(&before, &after, &Chosen::these(vec![0]))
    };
    let levels = |findings: Vec<Finding>| findings.iter().map(|finding| finding.level).collect::<Vec<_>>();
    assert_eq!(levels(judge(10, 0, "cc1")), [Level::Ok, Level::Ok]);
    let findings = judge(60, 0, "cc1");
    assert!(findings[0].what.contains("core 0 60 %") && findings[0].what.contains("by cc1"), "{findings:?}");
    assert_eq!(levels(findings), [Level::Warn, Level::Ok]);
    assert_eq!(levels(judge(60, 0, "gyre-0@0")), [Level::Ok, Level::Ok], "a worker of gyre");
    assert_eq!(levels(judge(0, 9, "x")), [Level::Ok, Level::Warn]);
    let [before, mut after] = samples(1, 1, "x");
    after.stat = Ok("garbage".into());
    assert_eq!(levels(busy(&before, &after, &Chosen::these(vec![0]))), [Level::Warn; 2]);
    after.stat = Err(ReadError::Denied);
    assert_eq!(levels(busy(&before, &after, &Chosen::these(vec![0]))), [Level::Warn; 2]);
}
