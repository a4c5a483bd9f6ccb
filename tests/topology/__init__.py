"""Every topology of docs/topologies.md on network namespaces, with real packets and real servers."""
