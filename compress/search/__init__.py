"""Search: propose which channels and blocks stay, instead of scoring them one by one."""
