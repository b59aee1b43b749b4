"""The controller's rules: state, decisions and their events. Pure, no input or output."""
