//! The number by which socket programs know the node's own network namespace.

use std::net::UdpSocket;

use super::Error;

mod kernel {
    //! The socket option; the macro holds the system call.
    nix::getsockopt_impl!(
        NetnsCookie,
        libc::SOL_SOCKET,
        libc::SO_NETNS_COOKIE,
        u64,
        nix::sys::socket::sockopt::GetStruct<u64>
    );

    /// `SO_NETNS_COOKIE` (Linux 5.14).
    #[derive(Clone, Copy, Debug)]
    pub(super) struct NetnsCookie;
}

/// The cookie of the network namespace of this thread.
pub fn netns_cookie() -> Result<u64, Error> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(Error::Cookie)?;
    nix::sys::socket::getsockopt(&socket, kernel::NetnsCookie)
        .map_err(|errno| Error::Cookie(errno.into()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_namespace_has_one_cookie() {
        let cookie = super::netns_cookie().unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(cookie, super::netns_cookie().unwrap());
    }
}
