"""Domain, feed and bus messages of Anabranch, with their subjects."""
