"""What runs have left, side by side: in which keys, versions and losses they differ, and a page about them that needs
nothing but a browser. Reads run folders only."""
