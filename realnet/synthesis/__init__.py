"""Local synthetic anomalies: Perlin masks, foregrounds, sources and blending (paper sec. 3.1)."""
