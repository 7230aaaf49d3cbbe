-- Script of the store, part 2 of 3: the windows of a call. Log of settles, merged parameters, slots of gateways that are
-- gone.

-- Parses a log entry: time of the settles and their number.
local function entry(text)
  local at, count = text:match('^(%d+):(%d+)$')
  return tonumber(at), tonumber(count)
end

-- Entry of a window's log by its index, oldest first; nil after the last. Reads the log as far as needed.
local function log_at(window, index)
  while index > #window.entries and not window.all_read do
    local from = #window.entries
    local texts = call('LRANGE', window.log, from, from + CHUNK - 1)
    for _, text in ipairs(texts) do
      local at, count = entry(text)
      window.entries[#window.entries + 1] = { at = at, count = count }
    end
    window.all_read = #texts < CHUNK
  end
  return window.entries[index]
end

-- Frees the slots whose span is over.
local function expire(window)
  if window.kind == 'fixed' then
    if window.settled > 0 and window.began + window.span <= now then
      window.settled, window.over = 0, window.began + window.span
    end
  elseif window.kind == 'sliding' or window.kind == 'smooth' then
    local expired = 0
    while true do
      local oldest = log_at(window, expired + 1)
      if not oldest or oldest.at + window.span > now then break end
      window.settled = window.settled - oldest.count
      expired = expired + 1
    end
    if expired > 0 then
      call('LTRIM', window.log, expired, -1)
      -- The cached entries no longer match the log's head.
      window.entries, window.all_read = {}, false
    end
  end
end

-- Settles `count` slots whose requests were sent at `bound` at the latest.
local function settle(window, bound, count)
  if window.kind == 'none' or count == 0 then return end
  if window.kind == 'calendar' then
    if bound >= window.period then window.settled = window.settled + count end
  elseif window.kind == 'fixed' then
    bound = math.max(bound, window.over)
    if window.settled > 0 and window.began + window.span <= bound then
      window.settled, window.over = 0, window.began + window.span
    end
    if window.settled == 0 then window.began = bound end
    window.settled = window.settled + count
  else
    if window.kind == 'smooth' then window.mark = math.max(window.mark, bound) + count * window.interval end
    if window.quantum > 1 then bound = math.ceil(bound / window.quantum) * window.quantum end
    window.settled = window.settled + count
    window.fresh_entries[#window.fresh_entries + 1] = { at = bound, count = count }
  end
end

-- Merges the new settles into the log by time: a gateway may report earlier settles later than another gateway does. Settles
-- older than the log's last `TAIL` entries count as old as the first of these.
local function write_log(window)
  local fresh = window.fresh_entries
  if #fresh == 0 then return end
  table.sort(fresh, function(one, other) return one.at < other.at end)
  local tail, from = {}, 1
  local last = call('LINDEX', window.log, -1)
  if last and entry(last) >= fresh[1].at then tail = call('LRANGE', window.log, -TAIL, -1) end
  local floor = #tail == TAIL and entry(tail[1]) or 0
  for index = #tail, 1, -1 do
    if entry(tail[index]) < math.max(floor, fresh[1].at) then
      from = index + 1
      break
    end
  end
  local merged, nxt = {}, 1
  local function put(at, count)
    local before = merged[#merged]
    if before and before.at == at then
      before.count = before.count + count
    else
      merged[#merged + 1] = { at = at, count = count }
    end
  end
  local function put_fresh_before(at)
    while fresh[nxt] and math.max(floor, fresh[nxt].at) < at do
      put(math.max(floor, fresh[nxt].at), fresh[nxt].count)
      nxt = nxt + 1
    end
  end
  for index = from, #tail do
    local at, count = entry(tail[index])
    put_fresh_before(at)
    put(at, count)
  end
  put_fresh_before(math.huge)
  local changed = #tail - from + 1
  if changed > 0 then call('LTRIM', window.log, 0, -1 - changed) end
  local texts = {}
  for index, each in ipairs(merged) do texts[index] = whole(each.at) .. ':' .. whole(each.count) end
  call('RPUSH', window.log, unpack(texts))
  window.entries, window.all_read, window.fresh_entries = {}, false, {}
end

-- Numeric field of a window's hash; 0 if absent.
local function field(window, name)
  return tonumber(window.fields[name]) or 0
end

-- Parameters of a limit in a gateway's configuration, stored for the others to compare: requests, span, in_flight, kind,
-- interval, burst, linger, and for `calendar` the unit and the zone. Later versions may append more.
local PARAMS = '^(%d+):(%d+):(%d+):(%a+):(%d+):(%d+):(%d+):([^:]*)'

-- Bits of a mismatch: the parameters that differ; BLOCKED: the caller is granted nothing because of it. `mismatch_log.rs`
-- has their names in the configuration.
local REQUESTS, SPAN, IN_FLIGHT, KIND, SPACING, COUNTS, CALENDAR, CLOCK, UNKNOWN, KEY, BLOCKED =
  1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024

-- Parameters that can be merged: place in PARAMS, cause, and the function that returns the stricter of two values.
local MERGED = {
  requests = { 1, REQUESTS, math.min }, span = { 2, SPAN, math.max }, in_flight = { 3, IN_FLIGHT, math.min },
  interval = { 5, SPACING, math.max }, burst = { 6, SPACING, math.min }, linger = { 7, COUNTS, math.max },
}

-- Adds a cause of a mismatch, once.
local function add_mismatch(window, cause)
  if not window.causes[cause] then window.causes[cause], window.cause = true, window.cause + cause end
end

-- Grants the caller nothing, because of this cause.
local function block(window, cause)
  add_mismatch(window, cause)
  add_mismatch(window, BLOCKED)
  window.blocked = true
end

-- Merges the caller's parameters with those of another gateway, `other_params`: the strictest apply.
local function merge_with(window, own, other_params)
  local kind, calendar = other_params[4], other_params[8]
  for param, rule in pairs(MERGED) do
    local place, cause, stricter = unpack(rule)
    if cause ~= SPACING or kind == window.own_kind then
      local theirs = tonumber(other_params[place])
      if theirs ~= own[param] then add_mismatch(window, cause) end
      window[param] = stricter(window[param], theirs)
    end
  end
  if kind ~= window.own_kind then
    add_mismatch(window, KIND)
    if kind == window.fields.k then
      -- The window keeps its kind while a present gateway has it; the caller, which has another, is granted nothing.
      window.kind = kind
      block(window, KIND)
    end
  elseif calendar ~= window.calendar then
    add_mismatch(window, CALENDAR)
  end
end

-- True for a present session of another process. Earlier sessions of the caller's own process no longer matter.
local function is_other(owner)
  return alive[owner] and not number_of(owner)
end

-- Merges the caller's parameters with those of all present gateways, and stores them.
local function merge_params(window)
  local own = {}
  for param in pairs(MERGED) do own[param] = window[param] end
  local own_text = table.concat({
    whole(own.requests), whole(own.span), whole(own.in_flight), window.own_kind, whole(own.interval), whole(own.burst),
    whole(own.linger), window.calendar,
  }, ':')
  for key, value in pairs(window.fields) do
    if key:sub(1, 2) == 'r:' and is_other(key:sub(3)) then
      local other_params = value ~= own_text and { value:match(PARAMS) }
      if not other_params then
        window.calendars[window.calendar] = true
      elseif other_params[1] then
        window.calendars[other_params[8]] = true
        merge_with(window, own, other_params)
      else
        block(window, UNKNOWN)
      end
    end
  end
  window.fields['r:' .. session] = own_text
  -- If another gateway counts answers, this one's requests may be answered up to a linger after they were sent.
  window.late = window.linger - own.linger
end

-- limit -> { since, otherwise }: time since which its windows have the present `key`; true if the caller has another `key`.
local known_keyings = {}

-- Compares the limit's `key` with that of other gateways: with different keys the same requests count in different windows.
-- While a gateway with the first `key` is present, gateways with another one are granted nothing. Afterwards the windows are
-- closed for a while, as earlier requests may belong to any of them.
local function compare_keys(window)
  local known = known_keyings[window.limit]
  if not known then
    local since, owner, keyed = (call('HGET', keyings, window.limit) or ''):match('^(%d+):([^:]*):(.*)$')
    known = { since = tonumber(since) or 0, otherwise = false }
    if keyed and keyed ~= window.keyed then
      known.otherwise = is_other(owner)
      if not known.otherwise then known.since, owner = now, nil end
    end
    if not known.otherwise and owner ~= session and not is_other(owner or '') then
      call('HSET', keyings, window.limit, whole(known.since) .. ':' .. session .. ':' .. window.keyed)
    end
    known_keyings[window.limit] = known
  end
  if known.otherwise then block(window, KEY) end
  if known.since > 0 then
    window.floor = math.max(window.floor, known.since + horizon_most + lease + window.linger + window.span)
  end
end

-- Settles the slots of gateways that are gone, as sent when they were last present, plus a linger.
local function settle_dead(window)
  local gone, dead = {}, {}
  for key in pairs(window.fields) do
    local owner = key:sub(3)
    local number = number_of(owner)
    local earlier = number ~= nil and number < own_number
    if key:sub(2, 2) == ':' and owner ~= session and (not alive[owner] or earlier and window.is_new) then
      gone[owner] = earlier and 'earlier' or 'dead'
    end
  end
  for owner, which in pairs(gone) do
    local held, keep = field(window, 'u:' .. owner), false
    -- Slots of earlier sessions of this process are reported again by the new one.
    if which == 'dead' and held > 0 then
      local other_params = { (window.fields['r:' .. owner] or ''):match(PARAMS) }
      local linger = math.max(window.linger, tonumber(other_params[7]) or 0)
      local at = tonumber(call('ZSCORE', present, owner) or now - linger) + linger
      -- In kinds that open all slots at once, the period of the settle matters: they settle when it is certain.
      keep = (window.kind == 'fixed' or window.kind == 'calendar') and now < at
      if not keep then dead[#dead + 1] = { at = at, held = held } end
    end
    for _, prefix in ipairs({ 'u:', 'r:', 'f:', 'q:', 'd:' }) do
      local key = prefix .. owner
      if window.fields[key] and not (keep and (prefix == 'u:' or prefix == 'r:')) then
        window.removed[#window.removed + 1], window.fields[key] = key, nil
      end
    end
  end
  table.sort(dead, function(one, other) return one.at < other.at end)
  for _, each in ipairs(dead) do settle(window, each.at, each.held) end
end

-- Finds the present period of a `calendar` window: the gateway sends the bounds of its periods, this clock selects one.
local function find_period(window)
  local from, till, calendar = (window.fields.c or ''):match('^(%d+):(%d+):(.*)$')
  window.period, window.till, window.counted_by = tonumber(from) or 0, tonumber(till) or 0, calendar or ''
  if window.own_kind ~= 'calendar' then
    window.ends = math.max(now, window.till)
    return
  end
  local bounds, first = window.bounds, 1
  while first < 3 and now >= bounds[first + 1] do first = first + 1 end
  local start, ends = bounds[first], bounds[first + 1]
  if not ends then
    -- The present period is later than all that the gateway sent: its clock is behind.
    window.ends = now
    return block(window, CLOCK)
  end
  local known = now >= start
  window.ends = known and ends or start
  if not known and start - now > ends - start then
    -- The gateway's clock is ahead by more than a period.
    return block(window, CLOCK)
  end
  if start >= window.till then
    if not known then return end
    window.settled = 0
  elseif start == window.period and ends == window.till then
    return
  elseif window.calendars[window.counted_by] then
    -- The window keeps its periods while a present gateway has them.
    return block(window, CALENDAR)
  elseif known then
    -- The former periods are no longer in use, and their counts say nothing about the present one.
    window.settled, window.floor = 0, math.max(window.floor, ends)
  else
    return
  end
  window.period, window.till, window.counted_by = start, ends, window.calendar
end

-- Reads the caller's arguments for the window `index`, loads its fields, and applies the reports.
--
-- Fields of a window's hash: b epoch, k kind, t span, n settled, x closed until, a begin and o end of the last period
-- (fixed), m mark (smooth), p paused until, c period and calendar, s free since; and for each session: u: unsettled slots,
-- f: flights, q: waiting slots, d: credit, r: parameters.
local function open_window(index)
  local window = {
    key = KEYS[3 + 2 * index], log = KEYS[4 + 2 * index], entries = {}, fresh_entries = {}, removed = {},
    is_new = number() == 1, kind = nil, own_kind = word(), requests = number(), span = number(), quantum = number(),
    interval = number(), burst = number(), in_flight = number(), linger = number(),
    bounds = { number(), number(), number() }, calendar = word(), limit = word(), keyed = word(),
    -- Causes of mismatches, as a set and as a sum; calendars in use by other gateways.
    causes = {}, cause = 0, calendars = {},
  }
  window.kind = window.own_kind
  local fields = hash(window.key)
  if fields.b ~= whole(epoch_start) then
    if next(fields) then call('DEL', window.key, window.log) end
    fields = { b = whole(epoch_start) }
  end
  window.fields = fields
  window.floor = field(window, 'x')
  merge_params(window)
  compare_keys(window)
  if fields.k and fields.k ~= window.kind then
    -- Another kind has other counts: the window is closed until the former ones no longer matter.
    call('DEL', window.log)
    fields.n, fields.c, window.removed[1] = nil, nil, 'c'
    window.floor = math.max(window.floor, now + window.span)
  elseif fields.t and window.span > field(window, 't') then
    -- A shorter span has dropped settles that a longer one still counts.
    window.floor = math.max(window.floor, now + window.span - field(window, 't'))
  end
  window.settled, window.began, window.over = field(window, 'n'), field(window, 'a'), field(window, 'o')
  window.mark, window.paused = field(window, 'm'), field(window, 'p')
  if epoch_start > 0 then
    window.floor = math.max(window.floor, epoch_start + horizon_most + lease + window.linger + window.span)
  end
  window.horizon = math.min(horizon_own, math.floor(window.span / 4))
  if window.kind == 'calendar' then find_period(window) end
  settle_dead(window)
  window.held = window.is_new and 0 or field(window, 'u:' .. session)
  window.flying = window.is_new and 0 or field(window, 'f:' .. session)
  local held, flying = number(), number()
  if window.is_new then window.held, window.flying = held, flying end
  window.waiting = number()
  window.paused = math.max(window.paused, now + number())
  local returned, landed = number(), number()
  if not window.is_new then
    window.held = math.max(0, window.held - returned)
    window.flying = math.max(0, window.flying - landed)
  end
  for _ = 1, number() do
    local age, count = number(), number()
    -- This clock is rounded down to whole microseconds: the true time may be almost one later.
    local late = (window.kind == 'sliding' or window.kind == 'smooth') and window.late or 0
    settle(window, now + 1 - age + late, count)
    if not window.is_new then window.held = math.max(0, window.held - count) end
  end
  write_log(window)
  expire(window)
  return window
end
