"""What the operators with a memory compute, in ONNX text; ``neurons`` says what they are."""

_FIRE = """
            threshold = Constant <value: tensor = @v_threshold> ()
            v_threshold = CastLike (threshold, current)
            u = Add (v, current)
            fired = Greater (u, v_threshold)
            s = CastLike (fired, current)
            x = Mul (s, v_threshold)"""
"""What neurons do that fire at most once: s and x from the current and v."""

_LEVELS = """
            threshold = Constant <value: tensor = @v_threshold> ()
            v_threshold = CastLike (threshold, current)
            most = Constant <value: tensor = @max_spikes> ()
            max_spikes = CastLike (most, current)
            unit = Constant <value: tensor = float {1}> ()
            one = CastLike (unit, current)
            zero = Sub (one, one)
            u = Add (v, current)
            levels = Div (u, v_threshold)
            above = Ceil (levels)
            spikes = Sub (above, one)"""
"""What neurons do that fire several times: how many thresholds are strictly below u."""

_RESTART = """
            start = Constant <value: tensor = @v_init> ()
            v_init = CastLike (start, current)
            last = Constant <value: tensor = @delay> ()
            delay = CastLike (last, t)
            residual = Sub (u, x)
            zero = Sub (v_threshold, v_threshold)
            now = Equal (t, delay)"""
"""What neurons go on with that start again: v after the spike, and whether it is time."""

_AVERAGE = """
            c = CastLike (current, total)
            total_next = Add (total, c)
            steps = CastLike (t, total)
            quotient = Div (total_next, steps)
            mean = CastLike (quotient, current)"""
"""The mean of what came until now."""

FUNCTIONS = {
    "IF": """
        IF <v_threshold, v_init> (current, v) => (x, v_next)
        {"""
    + _FIRE
    + """
            v_next = Sub (u, x)
        }
    """,
    "ResetToZeroIF": """
        ResetToZeroIF <v_threshold, v_init> (current, v) => (x, v_next)
        {"""
    + _FIRE
    + """
            zero = Sub (v_threshold, v_threshold)
            v_next = Where (fired, zero, u)
        }
    """,
    "SignedIF": """
        SignedIF <v_threshold, v_init, v_negative> (current, v, m) => (x, v_next, m_next)
        {
            threshold = Constant <value: tensor = @v_threshold> ()
            v_threshold = CastLike (threshold, current)
            negative = Constant <value: tensor = @v_negative> ()
            v_negative = CastLike (negative, current)
            u = Add (v, current)
            fired = Greater (u, v_threshold)
            low = Less (u, v_negative)
            up = CastLike (fired, current)
            spiked = CastLike (m, fired)
            back = And (low, spiked)
            down = CastLike (back, current)
            s = Sub (up, down)
            x = Mul (s, v_threshold)
            v_next = Sub (u, x)
            m_next = Add (m, s)
        }
    """,
    "BurstIF": """
        BurstIF <v_threshold, v_init, max_spikes> (current, v) => (x, v_next)
        {"""
    + _LEVELS
    + """
            s = Clip (spikes, zero, max_spikes)
            x = Mul (s, v_threshold)
            v_next = Sub (u, x)
        }
    """,
    "SignedBurstIF": """
        SignedBurstIF <v_threshold, v_init, max_spikes> (current, v, m) => (x, v_next, m_next)
        {"""
    + _LEVELS
    + """
            least = Sub (zero, max_spikes)
            limited = Clip (spikes, least, max_spikes)
            emitted = Sub (zero, m)
            s = Max (limited, emitted)
            x = Mul (s, v_threshold)
            v_next = Sub (u, x)
            m_next = Add (m, s)
        }
    """,
    "ResidualIF": """
        ResidualIF <v_threshold, v_init, delay> (current, t, v) => (x, v_next)
        {"""
    + _FIRE
    + _RESTART
    + """
            active = Greater (residual, zero)
            times = Constant <value: tensor = float {-30000}> ()
            depth = CastLike (times, current)
            silent = Mul (depth, v_threshold)
            again = Where (active, v_init, silent)
            v_next = Where (now, again, residual)
        }
    """,
    "OffsetIF": """
        OffsetIF <v_threshold, v_init, delay> (current, t, v) => (x, v_next)
        {"""
    + _FIRE
    + _RESTART
    + """
            below = Less (residual, zero)
            above = GreaterOrEqual (residual, v_threshold)
            fewer = CastLike (below, current)
            more = CastLike (above, current)
            offset = Sub (more, fewer)
            shift = Mul (offset, v_threshold)
            again = Add (v_init, shift)
            v_next = Where (now, again, residual)
        }
    """,
    "SpikingMaxPool": """
        SpikingMaxPool <kernel_shape, strides, pads, dilations, ceil_mode>
            (current, total) => (x, total_next)
        {
            c = CastLike (current, total)
            shape = Shape (c)
            held = Expand (total, shape)
            total_next = Add (held, c)
            before = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides,
                pads: ints = @pads, dilations: ints = @dilations, ceil_mode: int = @ceil_mode>
                (held)
            after = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides,
                pads: ints = @pads, dilations: ints = @dilations, ceil_mode: int = @ceil_mode>
                (total_next)
            difference = Sub (after, before)
            x = CastLike (difference, current)
        }
    """,
    "SpikingGlobalMaxPool": """
        SpikingGlobalMaxPool (current, total) => (x, total_next)
        {
            c = CastLike (current, total)
            shape = Shape (c)
            held = Expand (total, shape)
            total_next = Add (held, c)
            before = GlobalMaxPool (held)
            after = GlobalMaxPool (total_next)
            difference = Sub (after, before)
            x = CastLike (difference, current)
        }
    """,
    "SpikingThreshold": """
        SpikingThreshold <alpha> (current, t, total) => (x, total_next)
        {
            c = CastLike (current, total)
            total_next = Add (total, c)
            a = Constant <value: tensor = @alpha> ()
            level = CastLike (a, total)
            now = CastLike (t, total)
            level_now = Mul (level, now)
            level_before = Sub (level_now, level)
            counts_now = Greater (total_next, level_now)
            counts_before = Greater (total, level_before)
            factor_now = CastLike (counts_now, total)
            factor_before = CastLike (counts_before, total)
            after = Mul (total_next, factor_now)
            before = Mul (total, factor_before)
            difference = Sub (after, before)
            x = CastLike (difference, current)
        }
    """,
    **{
        op: f"{op} (current, t, total) => (mean, total_next) {{{_AVERAGE} }}"
        for op in ("RunningMean", "ToMean")
    },
    "FromMean": """
        FromMean (mean, t, total) => (x, total_next)
        {
            c = CastLike (mean, total)
            steps = CastLike (t, total)
            none = Sub (c, c)
            finite = Equal (none, none)
            wanted = Mul (c, steps)
            total_next = Where (finite, wanted, total)
            difference = Sub (total_next, total)
            x = CastLike (difference, mean)
        }
    """,
    "DelayedMean": """
        DelayedMean <delay> (current, t, total) => (mean, total_next)
        {
            last = Constant <value: tensor = @delay> ()
            delay = CastLike (last, t)
            one = Constant <value: tensor = float {1}> ()
            first = Add (delay, one)
            begins = Equal (t, first)
            zero = Sub (total, total)
            before = Where (begins, zero, total)
            c = CastLike (current, total)
            total_next = Add (before, c)
            after = Greater (t, delay)
            late = CastLike (after, t)
            left_out = Mul (late, delay)
            count = Sub (t, left_out)
            steps = CastLike (count, total)
            quotient = Div (total_next, steps)
            mean = CastLike (quotient, current)
        }
    """,
    "SwitchCoder": """
        SwitchCoder <scale, timesteps> (current, total) => (x, total_next)
        {
            height = Constant <value: tensor = @scale> ()
            scale = CastLike (height, total)
            length = Constant <value: tensor = @timesteps> ()
            steps = CastLike (length, total)
            c = CastLike (current, total)
            whole = Mul (c, steps)
            rest = Sub (whole, total)
            size = Abs (rest)
            twice = Add (size, size)
            on = Greater (twice, scale)
            switch = CastLike (on, total)
            direction = Sign (rest)
            signed = Mul (direction, switch)
            now = Mul (signed, scale)
            total_next = Add (total, now)
            x = CastLike (now, current)
        }
    """,
    "Clock": """
        Clock (n) => (t, n_next)
        {
            one = Constant <value: tensor = float {1}> ()
            t = Add (n, one)
            n_next = Identity (t)
        }
    """,
}
"""ONNX text of each stateful operator. ``v_threshold``, ``v_init`` and ``alpha`` are tensors:
the threshold V_th and the initial membrane potential v(0) of IF, in the unit of the input
current, shaped to broadcast against one sample: () per tensor, (C, 1, 1) per channel, or a
full sample's shape; so is ``v_negative``, below which a SignedIF takes a spike back. Scalars
are the level of SpikingThreshold, ``max_spikes`` in one time-step, ``delay`` and
``timesteps``, and ``scale``, the largest size of an input. The other attributes are those of
MaxPool, all of them given."""
