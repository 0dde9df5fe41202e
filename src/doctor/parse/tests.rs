//! Owns the tests of parsing the kernel's files: real contents, and random text.

use proptest::prelude::*;

use super::*;

#[test]
fn cores_and_masks() {
    assert_eq!(core_list("0-3,6\n"), [0, 1, 2, 3, 6]);
    assert_eq!(core_list(""), [0; 0]);
    assert_eq!(core_list("x,2,3-1,0-99999999999"), [2]);
    assert_eq!(core_mask("00000001,00000005\n"), [0, 2, 32]);
    assert_eq!(core_mask("0"), [0; 0]);
    assert_eq!(to_mask(&[0, 2, 32]), "1,00000005");
    assert_eq!(to_mask(&[]), "0");
}

#[test]
fn versions() {
    assert_eq!(kernel_version("6.18.44-fc-v595"), Some((6, 18, 44)));
    assert_eq!(kernel_version("6.1\n"), Some((6, 1, 0)));
    assert_eq!(kernel_version("6.12-rc1"), Some((6, 12, 0)));
    assert_eq!(kernel_version("x"), None);
}

#[test]
fn the_process() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                  Max open files            1024                 524288               files     \n\
                  Max locked memory         8388608              unlimited            bytes     \n";
    assert_eq!(limit(limits, "Max open files"), Some((Some(1024), Some(524_288))));
    assert_eq!(limit(limits, "Max locked memory"), Some((Some(8 << 20), None)));
    assert_eq!(limit(limits, "Max nice priority"), None);
    let status = "Name:\tgyre\nCapEff:\t0000000000001000\nCpus_allowed_list:\t0-1\n";
    assert!(has_capability(status, 12) && !has_capability(status, 13) && !has_capability("", 12));
    assert_eq!(field(status, "Cpus_allowed_list"), Some("0-1"));
    assert_eq!(memory_bytes("MemTotal:       16384 kB\n", "MemTotal"), Some(16 << 20));
    assert_eq!(memory_bytes("MemTotal: x kB\n", "MemTotal"), None);
}

#[test]
fn the_network() {
    let text = "Udp: InDatagrams NoPorts InErrors\nUdp: 10 20 30\nUdpLite: InDatagrams\nUdpLite: 5\n";
    assert_eq!(snmp(text, "Udp", "InErrors"), Some(30));
    assert_eq!(snmp(text, "Udp", "RcvbufErrors"), None);
    assert_eq!(snmp6("Ip6InReceives   \t7\nUdp6RcvbufErrors \t3\n", "Udp6RcvbufErrors"), Some(3));
    let young = "0a435446 00000002 0000001a 0 0 0 0 0 0 0 0 0 00000003 0 0\n";
    let expected = Softnet { core: 3, processed: 0x0a43_5446, dropped: 2, squeezed: 26 };
    assert_eq!(softnet(young), [expected]);
    assert_eq!(softnet("01 00 00\n02 00 00\n")[1], Softnet { core: 1, processed: 2, ..Softnet::default() });
    let udp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref \
               pointer drops\n  123: 0100007F:1B39 00000000:0000 07 00000000:00000300 00:00000000 00000000     0    \
               0 99 2 0000000000000000 17\n";
    assert_eq!(udp_rows(udp), [UdpRow { port: 6969, waiting: 768, drops: 17 }]);
}

#[test]
fn the_cores() {
    let irqs = "                    CPU0       CPU1\n      NET_RX:  17     19\n  NET_RXX: 1 1\n";
    assert_eq!(softirqs(irqs, "NET_RX"), BTreeMap::from([(0, 17), (1, 19)]));
    let text = "           CPU0       CPU1       \n 41:       4429          1 PCI-MSIX-0000:00:04.0   1-edge      \
                virtio3-rx\nLOC:    2594522    3584056   Local timer interrupts\n";
    assert_eq!(interrupts(text), [Interrupt { number: 41, count: 4430, name: "virtio3-rx".into() }]);
    let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu1 10 20 30 40 50 1 2 3 0 0\nintr 5\ncpux 1\ncpu2 1 2\n";
    let time = CoreTime { programs: 60, interrupts: 3, stolen: 3, total: 156 };
    assert_eq!(core_times(stat), BTreeMap::from([(1, time)]));
    let text = "77 (a (b) c) S 1 77 77 0 -1 4194304 1 0 0 0 30 12 0 0 20 0 1 0 5 6 7 8 9 10 11 12 13 14 15 16 17 18 \
                19 20 21 3 0 0\n";
    let found = task(text).unwrap();
    assert_eq!((found.name.as_str(), found.ticks, found.core), ("a (b) c", 42, 3));
}

/// Words of the kernel's files in random order.
fn nonsense() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("cpu0".to_owned()),
        Just("CPU0".to_owned()),
        Just("CPU99999999999999999999".to_owned()),
        Just("NET_RX:".to_owned()),
        Just("Udp:".to_owned()),
        Just("Max open files".to_owned()),
        Just("MemTotal:".to_owned()),
        Just("CapEff:".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("ffffffffffffffff".to_owned()),
        Just("1 (x) R".to_owned()),
        Just("0-4294967296".to_owned()),
        Just("kB".to_owned()),
        "[0-9a-f:,.-]{0,12}",
        "\\PC{0,6}",
    ];
    let between = prop_oneof![Just(" "), Just("\n"), Just(": "), Just(",")];
    proptest::collection::vec((word, between), 0..60)
        .prop_map(|parts| parts.into_iter().map(|(word, between)| word + between).collect())
}

proptest! {
    #[test]
    fn any_text_can_be_parsed(text in nonsense()) {
        core_list(&text);
        core_mask(&text);
        kernel_version(&text);
        limit(&text, "Max open files");
        memory_bytes(&text, "MemTotal");
        has_capability(&text, 40);
        snmp(&text, "Udp", "1");
        snmp6(&text, "Udp:");
        softnet(&text);
        softirqs(&text, "NET_RX");
        interrupts(&text);
        for time in core_times(&text).values() {
            time.since(CoreTime::default());
        }
        task(&text);
        udp_rows(&text);
    }

    #[test]
    fn formatted_masks_are_parsed_back(cores in proptest::collection::btree_set(0_usize..300, 0..40)) {
        let cores: Vec<usize> = cores.into_iter().collect();
        prop_assert_eq!(core_mask(&to_mask(&cores)), cores);
    }
}
