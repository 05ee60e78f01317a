"""Asks for eight virtual CPU devices, which has to happen before the first use of jax in the process."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
