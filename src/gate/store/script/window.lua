-- Part 2 of 3: the windows of the call. Log of settle times, terms that gateways agree on, slots of gateways that are gone.

local function entry(text)
  local at, count = text:match('^(%d+):(%d+)$')
  return tonumber(at), tonumber(count)
end

-- The slots in a window's log, oldest first, read as far as they are needed.
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

local function expire(window)
  if window.kind == 'fixed' then
    if window.settled > 0 and window.began + window.span <= now then
      window.settled, window.over = 0, window.began + window.span
    end
  elseif window.kind == 'sliding' or window.kind == 'smooth' then
    local gone = 0
    while true do
      local oldest = log_at(window, gone + 1)
      if not oldest or oldest.at + window.span > now then break end
      window.settled = window.settled - oldest.count
      gone = gone + 1
    end
    if gone > 0 then
      call('LTRIM', window.log, gone, -1)
      -- What was read is read again from the new head.
      window.entries, window.all_read = {}, false
    end
  end
end

-- `count` slots whose requests were sent at `bound` at the latest.
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
    if window.quantum > 1 then bound = math.ceil(bound / window.quantum) * window.quantum end
    window.settled = window.settled + count
    window.fresh_entries[#window.fresh_entries + 1] = { at = bound, count = count }
  end
end

-- Puts what has settled into its place in the log: a gateway may tell later of what it sent earlier than another. What is
-- older than all of the log's last `TAIL` entries counts as old as those.
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

local function field(window, of)
  return tonumber(window.fields[of]) or 0
end

-- The strictest of what the gateways that are there say of the limit.
local function agree(window)
  local own = whole(window.requests) .. ':' .. whole(window.span) .. ':' .. whole(window.in_flight) .. ':' .. window.told
  local known = window.fields.k
  for key, value in pairs(window.fields) do
    if key:sub(1, 2) == 'r:' and alive[key:sub(3)] and key:sub(3) ~= epoch and value ~= own then
      local requests, span, in_flight, kind = value:match('^(%d+):(%d+):(%d+):(%a+)$')
      -- As long as somebody counts in the old way it is counted so, and who knows another waits.
      if kind == known and kind ~= window.told then window.kind, window.shut = kind, true end
      window.requests = math.min(window.requests, tonumber(requests))
      window.span = math.max(window.span, tonumber(span))
      window.in_flight = math.min(window.in_flight, tonumber(in_flight))
      window.mixed = true
    end
  end
  window.fields['r:' .. epoch] = own
end

-- What gateways hold that are gone: it may have been sent until they were last seen, or a little later.
local function bury(window)
  local dead = {}
  for key in pairs(window.fields) do
    local what, whose = key:sub(1, 2), key:sub(3)
    local name = number_of(whose)
    local earlier = name and name < own_number
    if what:sub(2, 2) == ':' and whose ~= epoch and (not alive[whose] or earlier and window.fresh) then
      -- What this process held under an earlier name it tells again.
      local keep = false
      if what == 'u:' and not earlier then
        local seen = tonumber(call('ZSCORE', present, whose) or now - window.linger)
        -- Where slots open all at one moment it counts in which window they settled: they do when that is certain.
        keep = (window.kind == 'fixed' or window.kind == 'calendar') and now < seen + window.linger
        if not keep then dead[#dead + 1] = { seen = seen, held = field(window, key) } end
      end
      if not keep then
        window.gone[#window.gone + 1] = key
        window.fields[key] = nil
      end
    end
  end
  table.sort(dead, function(one, other) return one.seen < other.seen end)
  for _, each in ipairs(dead) do settle(window, each.seen + window.linger, each.held) end
end

local function open_window(index)
  local window = {
    key = KEYS[1 + 2 * index], log = KEYS[2 + 2 * index], entries = {}, fresh_entries = {}, gone = {},
    fresh = number() == 1, kind = nil, told = word(), requests = number(), span = number(), quantum = number(),
    interval = number(), burst = number(), in_flight = number(), linger = number(),
    bounds = { number(), number(), number() },
  }
  window.kind = window.told
  local fields = hash(window.key)
  if fields.b ~= whole(born) then
    if next(fields) then call('DEL', window.key, window.log) end
    fields = { b = whole(born) }
  end
  window.fields = fields
  window.floor = field(window, 'x')
  agree(window)
  if fields.k and fields.k ~= window.kind then
    -- Another kind of window counts otherwise: nothing of it is known.
    call('DEL', window.log)
    fields.n, window.floor = nil, math.max(window.floor, now + window.span)
  elseif fields.t and window.span > field(window, 't') then
    -- What a shorter span has forgotten would still count.
    window.floor = math.max(window.floor, now + window.span - field(window, 't'))
  end
  window.settled, window.began, window.over = field(window, 'n'), field(window, 'a'), field(window, 'o')
  window.mark, window.paused, window.period = field(window, 'm'), field(window, 'p'), field(window, 'c')
  if born > 0 then
    window.floor = math.max(window.floor, born + horizon_most + lease + window.linger + window.span)
  end
  window.horizon = math.min(horizon_own, math.floor(window.span / 4))
  if window.kind == 'calendar' then
    -- The gateway says when periods begin, and this clock in which one we are.
    local start, first = window.bounds[1], 1
    while first < 3 and now >= window.bounds[first + 1] do
      start, first = window.bounds[first + 1], first + 1
    end
    if now < start then
      window.ends = start
    else
      window.ends = window.bounds[first + 1]
      if start > window.period then window.period, window.settled = start, 0 end
    end
    if not window.ends then
      -- It does not know the period that we are in.
      window.ends, window.shut, window.mixed = now, true, true
    end
  end
  bury(window)
  window.held = window.fresh and 0 or field(window, 'u:' .. epoch)
  window.flying = window.fresh and 0 or field(window, 'f:' .. epoch)
  local held, flying = number(), number()
  if window.fresh then window.held, window.flying = held, flying end
  window.waiting = number()
  window.paused = math.max(window.paused, now + number())
  local returned, landed = number(), number()
  if not window.fresh then
    window.held = math.max(0, window.held - returned)
    window.flying = math.max(0, window.flying - landed)
  end
  for _ = 1, number() do
    local age, count = number(), number()
    -- This clock shows whole microseconds that have passed: it may be one later.
    settle(window, now + 1 - age, count)
    if not window.fresh then window.held = math.max(0, window.held - count) end
  end
  write_log(window)
  expire(window)
  return window
end
