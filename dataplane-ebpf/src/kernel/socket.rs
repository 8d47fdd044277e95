//! The socket hooks.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_ANY,
    helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use dataplane_common::{Hook, Peer, PeerKey, Reason, mapped, unmapped};
use dataplane_ebpf::sockets::{Decision, Name, Sockets, connect, sendmsg, unmask};

use super::{
    log::log,
    maps,
    maps::count,
    tables::{Maps, words},
};

/// The call goes on.
const ALLOW: i32 = 1;
/// The call fails.
const DENY: i32 = 0;
const EPERM: i32 = 1;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

impl Sockets for Maps {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_socket_cookie(self.context) }
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_netns_cookie(self.context) }
    }

    #[inline(always)]
    fn host_netns_cookie(&self) -> u64 {
        maps::CONFIG.get(0).map_or(0, |config| config.host_netns_cookie)
    }

    #[inline(always)]
    fn config_flags(&self) -> u32 {
        maps::CONFIG.get(0).map_or(0, |config| config.flags)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and always succeeds.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<Peer> {
        // SAFETY: the value is copied out at once; only this socket's calls write it.
        unsafe { maps::PEERS.get(key) }.copied()
    }

    #[inline(always)]
    fn remember(&mut self, key: &PeerKey, peer: &Peer) {
        // A table that takes no entry costs the socket its illusion, not its connection.
        let _ = maps::PEERS.insert(key, peer, BPF_ANY.into());
    }
}

#[cgroup_sock_addr(connect4)]
fn connect4(context: SockAddrContext) -> i32 {
    let decision = connect(&mut sockets(&context), &name4(&context), protocol(&context));
    finish4(&context, Hook::Connect, decision)
}

#[cgroup_sock_addr(connect6)]
fn connect6(context: SockAddrContext) -> i32 {
    let decision = connect(&mut sockets(&context), &name6(&context), protocol(&context));
    finish6(&context, Hook::Connect, decision)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(context: SockAddrContext) -> i32 {
    let decision = sendmsg(&mut sockets(&context), &name4(&context));
    finish4(&context, Hook::Sendmsg, decision)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(context: SockAddrContext) -> i32 {
    let decision = sendmsg(&mut sockets(&context), &name6(&context));
    finish6(&context, Hook::Sendmsg, decision)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(context: SockAddrContext) -> i32 {
    let decision = unmask(&sockets(&context), &name4(&context), protocol(&context));
    finish4(&context, Hook::Recvmsg, decision)
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(context: SockAddrContext) -> i32 {
    let decision = unmask(&sockets(&context), &name6(&context), protocol(&context));
    finish6(&context, Hook::Recvmsg, decision)
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(context: SockAddrContext) -> i32 {
    let decision = unmask(&sockets(&context), &name4(&context), protocol(&context));
    finish4(&context, Hook::Getpeername, decision)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(context: SockAddrContext) -> i32 {
    let decision = unmask(&sockets(&context), &name6(&context), protocol(&context));
    finish6(&context, Hook::Getpeername, decision)
}

#[inline(always)]
fn sockets(context: &SockAddrContext) -> Maps {
    Maps { context: context.as_ptr(), ifindex: 0, is_xdp: false }
}

#[inline(always)]
fn protocol(context: &SockAddrContext) -> u8 {
    // SAFETY: the context is the kernel's own and lives as long as the program runs.
    unsafe { (*context.sock_addr).protocol as u8 }
}

#[inline(always)]
fn name4(context: &SockAddrContext) -> Name {
    // SAFETY: as for `protocol`.
    let addr = unsafe { (*context.sock_addr).user_ip4 };
    Name { addr: mapped(addr.to_ne_bytes()), port: port(context) }
}

#[inline(always)]
fn name6(context: &SockAddrContext) -> Name {
    let mut words = [[0; 4]; 4];
    for (number, word) in words.iter_mut().enumerate() {
        // SAFETY: as for `protocol`.
        let field = unsafe { &(*context.sock_addr).user_ip6[number] };
        // SAFETY: a reference is readable. Volatile: one word at a time, as in `finish6`.
        *word = unsafe { core::ptr::from_ref(field).read_volatile() }.to_ne_bytes();
    }
    let [a, b, c, d] = words;
    let addr = [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], //
        c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ];
    Name { addr, port: port(context) }
}

/// The port in network order: the low half of the field.
#[inline(always)]
fn port(context: &SockAddrContext) -> [u8; 2] {
    // SAFETY: as for `protocol`.
    let port = unsafe { (*context.sock_addr).user_port };
    (port as u16).to_ne_bytes()
}

#[inline(always)]
fn finish4(context: &SockAddrContext, hook: Hook, decision: Decision) -> i32 {
    if let Decision::Replace(name, _) = decision
        && let Some(addr) = unmapped(name.addr)
    {
        // SAFETY: as for `protocol`; these fields are writable in every hook we attach to.
        unsafe { (*context.sock_addr).user_ip4 = u32::from_ne_bytes(addr) };
        set_port(context, name.port);
    }
    finish(context, hook, decision)
}

#[inline(always)]
fn finish6(context: &SockAddrContext, hook: Hook, decision: Decision) -> i32 {
    if let Decision::Replace(name, _) = decision {
        let words = words(&name.addr);
        for (number, word) in words.into_iter().enumerate() {
            // SAFETY: as for `finish4`.
            let field = unsafe { &mut (*context.sock_addr).user_ip6[number] };
            // SAFETY: a reference is writable. Volatile, since the kernel allows one word at a time in
            // every hook, and the compiler would write two.
            unsafe { core::ptr::from_mut(field).write_volatile(word) };
        }
        set_port(context, name.port);
    }
    finish(context, hook, decision)
}

#[inline(always)]
fn set_port(context: &SockAddrContext, port: [u8; 2]) {
    // SAFETY: as for `finish4`.
    unsafe { (*context.sock_addr).user_port = u32::from(u16::from_ne_bytes(port)) };
}

#[inline(always)]
fn finish(context: &SockAddrContext, hook: Hook, decision: Decision) -> i32 {
    count(hook, decision.reason() as u32);
    log(context, hook, decision.reason() as u32);
    match decision {
        Decision::Keep(_) | Decision::Replace(..) => ALLOW,
        Decision::Refuse(Reason::Refused) => refuse(ECONNREFUSED),
        Decision::Refuse(Reason::NoLocalEndpoint) => refuse(EHOSTUNREACH),
        Decision::Refuse(_) => refuse(EPERM),
    }
}

#[inline(always)]
fn refuse(errno: i32) -> i32 {
    // SAFETY: the helper takes a number, and the hooks that refuse may set it.
    unsafe { bpf_set_retval(-errno) };
    DENY
}
