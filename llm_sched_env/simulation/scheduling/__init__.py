"""Which request starts where: gates, routers, pools, rules."""
