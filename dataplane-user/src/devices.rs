//! Links and addresses of this node, as they come and go.
