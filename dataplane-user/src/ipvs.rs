//! The IPVS backend: virtual servers and destinations, with nftables for what IPVS cannot say.
