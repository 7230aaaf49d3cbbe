//! Table of script mutants: name, number of occurrences of the needle, needle, and replacement.

/// One change of the script: name, occurrences of the needle, needle, replacement.
pub(super) struct ScriptMutant(
    pub(super) &'static str,
    pub(super) usize,
    pub(super) &'static str,
    pub(super) &'static str,
);

use ScriptMutant as M;

/// Changes that cannot be seen, each with its reason.
pub(super) const EQUIVALENTS: [ScriptMutant; 2] = [
    // A window that is new to the session takes its counts from the report a few lines later.
    M("held of a new window is read", 1, "window.held = window.is_new and 0 or field", "window.held = field"),
    // The number of entries read at once changes the number of commands, not what is read.
    M("chunk", 1, "local CHUNK = 64", "local CHUNK = 3"),
];

/// Changes of which each must be seen.
#[rustfmt::skip]
pub(super) const MUTANTS: [ScriptMutant; 117] = [
    // Expiry.
    M("expire 1 ms early", 1, "if not oldest or oldest.at + window.span > now then", "if not oldest or oldest.at + window.span > now + 1000 then"),
    M("expire 1 us late", 1, "if not oldest or oldest.at + window.span > now then", "if not oldest or oldest.at + window.span >= now then"),
    M("fixed expires 1 ms early", 1, "window.began + window.span <= now then", "window.began + window.span <= now + 1000 then"),
    M("expire keeps n", 1, "window.settled = window.settled - oldest.count", "window.settled = window.settled"),
    M("trim one too many", 1, "call('LTRIM', window.log, expired, -1)", "call('LTRIM', window.log, expired + 1, -1)"),
    M("entries stay after a trim", 1, "window.entries, window.all_read = {}, false\n", "\n"),
    M("a whole chunk is the last", 1, "window.all_read = #texts < CHUNK", "window.all_read = true"),
    // Settles and their log.
    M("settle at the start of the microsecond", 1, "now + 1 - age + late", "now - age + late"),
    M("ages count twice", 1, "now + 1 - age + late", "now + 1 - 2 * age + late"),
    M("late is 0", 1, "window.late = window.linger - own.linger", "window.late = 0"),
    M("late for all kinds", 1, "(window.kind == 'sliding' or window.kind == 'smooth') and window.late or 0", "window.late"),
    M("quantum down", 1, "math.ceil(bound / window.quantum)", "math.floor(bound / window.quantum)"),
    M("short tail", 1, "local TAIL = 128", "local TAIL = 16"),
    M("no floor of the tail", 1, "local floor = #tail == TAIL and entry(tail[1]) or 0", "local floor = 0"),
    M("late reports go to the end", 1, "entry(last) >= fresh[1].at then tail", "false then tail"),
    M("merge into the one before", 1, "if before and before.at == at then", "if before then"),
    M("fresh unsorted", 1, "table.sort(fresh, function(one, other) return one.at < other.at end)", ""),
    M("settles of no count", 1, "window.settled = window.settled + count\n    window.fresh_entries", "window.fresh_entries"),
    // Calendar, fixed and smooth windows.
    M("calendar counts the period before", 1, "if bound >= window.period then window.settled", "if true then window.settled"),
    M("fixed settles before the end of the last", 1, "bound = math.max(bound, window.over)", "bound = bound"),
    M("fixed stays open for a late settle", 1, "if window.settled > 0 and window.began + window.span <= bound then", "if false then"),
    M("fixed begins anew", 1, "if window.settled == 0 then window.began = bound end", "window.began = bound"),
    M("smooth mark from the settle alone", 1, "window.mark = math.max(window.mark, bound) +", "window.mark = bound +"),
    M("smooth saves one more", 1, "math.max(window.burst, cost) * window.interval", "(math.max(window.burst, cost) + 1) * window.interval"),
    M("smooth cost above the burst", 1, "math.max(window.burst, cost) * window.interval", "window.burst * window.interval"),
    M("smooth without the unsettled", 1, "(window.unsettled + nth * cost) * window.interval", "nth * cost * window.interval"),
    M("smooth retry", 1, "math.floor(window.horizon * 3 / 4)", "window.horizon"),
    M("calendar opens before its first period", 1, "if window.kind == 'calendar' then at = math.max(at, window.bounds[1]) end", ""),
    M("calendar keeps its count", 1, "    window.settled = 0\n  elseif start == window.period", "  elseif start == window.period"),
    M("calendar period a microsecond late", 1, "if start >= window.till then", "if start > window.till then"),
    M("clock ahead by two periods", 1, "start - now > ends - start", "start - now > 2 * (ends - start)"),
    M("far behind", 1, "while first < 3 and", "while first < 2 and"),
    M("clock behind", 1, "while first < 3 and now >= bounds[first + 1]", "while first < 3 and now > bounds[first + 1]"),
    M("other calendars replace the present one", 1, "elseif window.calendars[window.counted_by] then", "elseif false then"),
    M("other calendars open at once", 1, "window.settled, window.floor = 0, math.max(window.floor, ends)", "window.settled = 0"),
    // Floor, epoch and identity.
    M("epoch floor is a span", 1, "epoch_start + horizon_most + lease + window.linger + window.span", "epoch_start + window.span"),
    M("epoch floor without the horizon", 1, "epoch_start + horizon_most + lease + window.linger + window.span", "epoch_start + lease + window.linger + window.span"),
    M("epoch floor without the lease", 1, "epoch_start + horizon_most + lease + window.linger + window.span", "epoch_start + horizon_most + window.linger + window.span"),
    M("epoch floor without the linger", 1, "epoch_start + horizon_most + lease + window.linger + window.span", "epoch_start + horizon_most + lease + window.span"),
    M("key floor is a span", 1, "known.since + horizon_most + lease + window.linger + window.span", "known.since + window.span"),
    M("key floor without the lease", 1, "known.since + horizon_most + lease + window.linger + window.span", "known.since + horizon_most + window.linger + window.span"),
    M("no floor after another kind", 1, "math.max(window.floor, now + window.span)", "window.floor"),
    M("log of another kind stays", 1, "call('DEL', window.log)\n", "\n"),
    M("no floor for a longer span", 1, "now + window.span - field(window, 't')", "now"),
    M("floor is not asked", 1, "at = math.max(at, now, window.floor, window.paused)", "at = math.max(at, now, window.paused)"),
    M("windows of an earlier epoch stay", 1, "if fields.b ~= whole(epoch_start) then", "if false then"),
    M("an empty store is trusted", 1, "trusts_empty and 0 or now", "0"),
    M("another store is taken for this one", 1, "if command ~= 'hello' then return { OTHER_STORE } end", ""),
    M("no suspicion", 1, "suspect_epoch >= 0 and tonumber(meta.born) == suspect_epoch", "false"),
    M("any suspicion", 1, "suspect_epoch >= 0 and tonumber(meta.born) == suspect_epoch", "suspect_epoch >= 0"),
    M("clock goes back", 1, "now = math.max(now, tonumber(meta.last))", "now = now"),
    M("sessions survive an epoch", 1, "call('DEL', group, present, keyings)", "call('DEL', group, keyings)"),
    // Versions.
    M("version of the group is not checked", 1, "meta.id and meta.v ~= VERSION", "false"),
    M("version 1 is not checked", 1, "(call('HGET', group_v1, 'v') or VERSION) ~= VERSION", "false"),
    M("another version is driven out", 1, "if call('ZCOUNT', present, now, '+inf') > 0 then return { OTHER_VERSION } end", ""),
    M("version 1 is not told", 1, "call('HSET', group_v1, 'id', id, 'v', VERSION)", ""),
    // Presence.
    M("a lapsed session goes on for 1 ms", 1, "if not till or tonumber(till) < now then", "if not till or tonumber(till) < now - 1000 then"),
    M("presence is doubled", 1, "call('ZADD', present, now + presence, session)", "call('ZADD', present, now + 2 * presence, session)"),
    M("bye is present", 1, "call('ZADD', present, now - 1, session)", "call('ZADD', present, now + presence, session)"),
    M("a delayed call of an earlier session is executed", 1, "if later and later > own_number then return { LAPSED } end", ""),
    M("sessions are dropped at once", 1, "now - 86400000000", "now"),
    // Gateways that are gone.
    M("dead are forgotten", 1, "if which == 'dead' and held > 0 then", "if false then"),
    M("dead settle in the past", 1, "settle(window, each.at, each.held)", "settle(window, each.at - window.span, each.held)"),
    M("dead by the caller's linger", 1, "math.max(window.linger, tonumber(other_params[7]) or 0)", "window.linger"),
    M("dead by their own linger", 1, "math.max(window.linger, tonumber(other_params[7]) or 0)", "tonumber(other_params[7]) or 0"),
    M("dead without a linger", 1, "or now - linger) + linger", "or now)"),
    M("dead of an unknown time", 1, "or now - linger) + linger", "or 0) + linger"),
    M("dead of a fixed window at once", 1, "keep = (window.kind == 'fixed' or window.kind == 'calendar') and now < at", "keep = false"),
    M("earlier sessions are dead", 1, "gone[owner] = earlier and 'earlier' or 'dead'", "gone[owner] = 'dead'"),
    M("earlier sessions hold until they lapse", 1, "(not alive[owner] or earlier and window.is_new)", "not alive[owner]"),
    // Fractions.
    M("fraction without the lease", 1, "unseen = now < one.till + one.lasts + lease + span", "unseen = now < one.till + one.lasts + span"),
    M("fraction without the span", 1, "unseen = now < one.till + one.lasts + lease + span", "unseen = now < one.till + one.lasts + lease"),
    M("fraction is free when its gateway is back", 1, "one.since > 0 and now < one.since + span", "false"),
    M("fractions of unknown gateways without their time", 1, "now < epoch_start + longest + lease + span", "now < epoch_start + lease + span"),
    M("one unknown gateway", 1, "total + unknown * math.floor(all / fewest)", "total + math.floor(all / fewest)"),
    M("all gateways are known", 1, "if one.till ~= SILENT then unknown = unknown - 1 end", "unknown = unknown - 1"),
    M("a first call is no return", 1, "own.since = epoch_start > 0 and now or 0", "own.since = 0"),
    M("a return is not noted", 1, "own.till ~= SIGNED_OFF and own.till < now then\n    own.since = now", "own.till ~= SIGNED_OFF and own.till < now then\n    own.since = own.since"),
    M("too many gateways", 1, "if known >= gateways then return { TOO_MANY } end", ""),
    M("settings apply at the hello", 1, "if command ~= 'hello' or own.till == SILENT then own.lasts", "if true then own.lasts"),
    M("fractions without the linger", 1, "reserved(window.requests, window.span + window.linger)", "reserved(window.requests, window.span)"),
    M("settings are compared in part", 1, "(one.lasts ~= share_for or one.parts ~= gateways)", "one.parts ~= gateways"),
    // Pauses and flights.
    M("a pause ends early", 1, "window.paused = math.max(window.paused, now + number())", "window.paused = now + number()"),
    M("a pause is not asked", 1, "at = math.max(at, now, window.floor, window.paused)", "at = math.max(at, now, window.floor)"),
    M("one flight more", 1, "window.all_flying + nth > window.most_flying then", "window.all_flying + nth > window.most_flying + 1 then"),
    M("flights are not stored", 1, "window.flying, window.all_flying = window.flying + taken, window.all_flying + taken", "window.all_flying = window.all_flying + taken"),
    M("flights of fractions", 1, "window.in_flight - reserved(window.in_flight, window.span + window.linger)", "window.in_flight"),
    M("all have landed", 1, "window.flying = math.max(0, window.flying - landed)", "window.flying = 0"),
    // Parameters of several gateways.
    M("the largest number", 1, "requests = { 1, REQUESTS, math.min }", "requests = { 1, REQUESTS, math.max }"),
    M("the shortest span", 1, "span = { 2, SPAN, math.max }", "span = { 2, SPAN, math.min }"),
    M("the shortest linger", 1, "linger = { 7, COUNTS, math.max }", "linger = { 7, COUNTS, math.min }"),
    M("another kind goes on", 1, "      block(window, KIND)\n", "\n"),
    M("an unreadable gateway is ignored", 1, "block(window, UNKNOWN)", "window.late = 0"),
    M("another key goes on", 1, "if known.otherwise then block(window, KEY) end", ""),
    M("own earlier sessions are others", 1, "return alive[owner] and not number_of(owner)", "return alive[owner]"),
    // Grants, give-backs and shares.
    M("one slot more", 1, "if missing <= 0 then return now end", "if missing <= 1 then return now end"),
    M("twice given back", 1, "window.held = math.max(0, window.held - returned)", "window.held = math.max(0, window.held - 2 * returned)"),
    M("settles of a new session are subtracted", 1, "if not window.is_new then window.held = math.max(0, window.held - count) end", "window.held = math.max(0, window.held - count)"),
    M("horizon is doubled", 1, "elseif at > now + horizon then", "elseif at > now + 2 * horizon then"),
    M("horizon above a quarter of the span", 1, "math.min(horizon_own, math.floor(window.span / 4))", "horizon_own"),
    // Shares, prefetch, and the time for which windows are kept.
    M("free slots go to any gateway after one horizon", 1, "now - tonumber(since) >= 2 * window.horizon", "now - tonumber(since) >= window.horizon"),
    M("no turn for the first", 1, "if first then may = 1 end", ""),
    M("credit without a bound", 1, "math.min(most, credit)", "credit"),
    M("no credit for others", 1, "    credit_others(window, slots)\n", "\n"),
    M("a bye forgets the unsettled", 1, "value > 0 and (command ~= 'bye' or prefix == 'u')", "value > 0 and command ~= 'bye'"),
    M("a bye keeps its waiters", 1, "value > 0 and (command ~= 'bye' or prefix == 'u')", "value > 0"),
    M("prefetch of all that is plenty", 1, "plenty / (2 * math.max(1, count))", "plenty"),
    M("prefetch in a closed window", 1, "if math.max(window.floor, window.paused) > now or window.in_flight", "if window.in_flight"),
    M("prefetch where flights are capped", 1, "> now or window.in_flight < UNCAPPED then return 0 end", "> now then return 0 end"),
    M("windows are kept for no time", 1, "math.ceil(2 * window.span / 1000) + still", "0"),
    M("windows with slots are kept for a minute", 1, "and 600000 or 60000", "and 60000 or 60000"),
    M("paused windows are not kept", 1, "keep = math.max(keep, math.ceil((math.max(window.paused, window.floor) - now) / 1000) + 60000)", "keep = keep"),
    M("calendar windows are kept for a span", 1, "if window.kind == 'calendar' then keep = keep +", "if false then keep = keep +"),
    M("each request of a group opens as the first", 1, "taken + 1, part.cost", "1, part.cost"),
    M("waiting slots stay", 1, "window.waiting = math.max(0, window.waiting - slots)", "window.waiting = window.waiting"),
    M("horizon of the last window", 1, "math.min(horizon, window.horizon), math.min(span, window.span)", "window.horizon, math.min(span, window.span)"),
    M("free soon without the horizon", 1, "nxt.at + window.span > now + window.horizon then return free", "nxt.at + window.span > now then return free"),
];
