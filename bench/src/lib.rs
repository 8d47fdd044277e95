//! What a packet and a change cost: the measurements behind `hashplane bench`.
