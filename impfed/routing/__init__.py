"""IRoute plugins, the resolver chain and next hops; user location through IDirectory."""
