-- Script of the store, part 3 of 3: grants. Openings, fair shares, slot requests; then the windows are stored and the reply
-- is returned.

-- Adds up the slots, flights and waiting slots of all gateways.
local function add_totals(window)
  window.fields['u:' .. session], window.fields['f:' .. session] = nil, nil
  window.fields['q:' .. session] = nil
  local unsettled, flying, others = window.held, window.flying, 0
  for key in pairs(window.fields) do
    local prefix = key:sub(1, 2)
    if prefix == 'u:' then unsettled = unsettled + field(window, key)
    elseif prefix == 'f:' then flying = flying + field(window, key)
    elseif prefix == 'q:' then others = others + field(window, key)
    end
  end
  window.unsettled, window.all_flying, window.others = unsettled, flying, others
  window.room = window.requests - reserved(window.requests, window.span + window.linger)
  window.most_flying = window.in_flight - reserved(window.in_flight, window.span + window.linger)
end

-- Opening time of the `count`-th next slot; nil if it depends on slots that have not settled.
local function slot_opens(window, count)
  if window.kind == 'none' then return now end
  local missing = window.unsettled + window.settled + count - window.room
  if missing <= 0 then return now end
  if window.unsettled + count > window.room then return nil end
  if window.kind == 'fixed' then return window.began + window.span end
  if window.kind == 'calendar' then return window.ends end
  window.walked, window.freed = window.walked or 0, window.freed or 0
  while window.freed < missing do
    local nxt = log_at(window, window.walked + 1)
    if not nxt then return nil end
    window.walked, window.freed = window.walked + 1, window.freed + nxt.count
  end
  return window.entries[window.walked].at + window.span
end

-- Time at which this window lets the `nth` request of `cost` slots pass; or nil, and the time until the next check.
local function opens(window, nth, cost)
  if window.blocked then return nil, UNKNOWN_RETRY end
  if window.all_flying + nth > window.most_flying then return nil, FLIGHT_RETRY end
  local at = slot_opens(window, nth * cost)
  if not at then return nil, UNKNOWN_RETRY end
  at = math.max(at, now, window.floor, window.paused)
  if window.kind == 'calendar' then at = math.max(at, window.bounds[1]) end
  if window.kind == 'smooth' then
    -- All unsettled slots may be used at the same moment: the burst must cover their intervals and this one.
    local saved = math.max(window.burst, cost) * window.interval
    local needed = (window.unsettled + nth * cost) * window.interval
    local due = math.max(window.mark, now) + needed - saved
    if needed > saved then
      -- At `due` it opens if those are sent now. An earlier check finds it before its opening.
      return nil, math.max(SOONEST_RETRY, math.min(UNKNOWN_RETRY, due - now - math.floor(window.horizon * 3 / 4)))
    end
    at = math.max(at, due)
  end
  return at
end

-- Number of slots that are free by the horizon.
local function free_soon(window)
  local free = window.room - window.unsettled - window.settled
  if window.kind == 'fixed' or window.kind == 'calendar' then
    local ends = window.kind == 'fixed' and window.began + window.span or window.ends
    return ends <= now + window.horizon and window.room - window.unsettled or free
  end
  local index = 1
  while true do
    local nxt = log_at(window, index)
    if not nxt or nxt.at + window.span > now + window.horizon then return free end
    free, index = free + nxt.count, index + 1
  end
end

-- Maximum number of requests of `cost` slots to grant to this gateway: free slots are shared in proportion to the waiting
-- slots of each gateway. A gateway that got less has credit (deficit round robin).
local function allowance(window, cost)
  if window.kind == 'none' or window.others == 0 or window.blocked then return math.huge end
  local part = window.waiting / math.max(1, window.waiting + window.others)
  local credit = field(window, 'd:' .. session)
  local may = math.floor(math.ceil(credit + free_soon(window) * part) / cost)
  local since = window.fields.s
  if since and now - tonumber(since) >= 2 * window.horizon then
    -- Slots that stayed free for two horizons go to any gateway.
    may = math.max(may, math.floor((window.room - window.unsettled - window.settled) / cost))
  end
  if may < 1 then
    local first = true
    for key in pairs(window.fields) do
      if key:sub(1, 2) == 'q:' and field(window, 'd:' .. key:sub(3)) > credit then first = false end
    end
    if first then may = 1 end
  end
  return math.max(0, may)
end

-- Credits the other gateways with waiters their proportion of `taken` slots, at this gateway's expense.
local function credit_others(window, taken)
  local all = window.waiting + window.others
  if window.others == 0 or all == 0 then
    window.fields['d:' .. session] = nil
    return
  end
  local most, waiting = window.requests, {}
  for key in pairs(window.fields) do
    if key:sub(1, 2) == 'q:' then waiting[#waiting + 1] = key:sub(3) end
  end
  for _, other in ipairs(waiting) do
    local credit = field(window, 'd:' .. other) + taken * field(window, 'q:' .. other) / all
    window.fields['d:' .. other] = math.min(most, credit)
  end
  local own = field(window, 'd:' .. session) + taken * window.waiting / all - taken
  window.fields['d:' .. session] = math.max(-most, own)
end

-- Slot requests --------------------------------------------------------------------------------------------------------

local windows = {}
for index = 1, number() do
  windows[index] = open_window(index)
  add_totals(windows[index])
end

local answer = { OK, now, epoch_start, settings_mismatch and 1 or 0, 0 }
local function push(value)
  answer[#answer + 1] = value
end
for index, window in ipairs(windows) do
  if window.cause > 0 then
    answer[5] = answer[5] + 1
    push(index)
    push(window.cause)
    push(window.span)
  end
end

-- Number of slots to grant ahead of need, at most `wanted`: only while no other gateway waits and over half of the slots are
-- free.
local function prefetchable(window, wanted)
  if wanted == 0 or window.others > 0 or window.kind == 'none' or window.kind == 'smooth' then return 0 end
  if math.max(window.floor, window.paused) > now or window.in_flight < UNCAPPED then return 0 end
  if window.kind == 'calendar' and now < window.bounds[1] then return 0 end
  local count = 0
  for _ in pairs(alive) do count = count + 1 end
  local plenty = window.room - window.unsettled - window.settled - math.floor(window.room / 2)
  return math.max(0, math.min(wanted, math.floor(plenty / (2 * math.max(1, count)))))
end

for _ = 1, number() do
  local most, wanted, parts = number(), number(), {}
  local may, horizon, span = most, math.huge, math.huge
  for part = 1, number() do
    local window, cost = windows[number()], number()
    parts[part] = { window = window, cost = cost }
    window.walked, window.freed = nil, nil
    horizon, span = math.min(horizon, window.horizon), math.min(span, window.span)
    may = math.min(may, allowance(window, cost))
  end
  local taken, groups, later = 0, {}, 0
  while taken < most do
    local at, retry = now, 0
    for _, part in ipairs(parts) do
      local opening, again = opens(part.window, taken + 1, part.cost)
      at, retry = at and opening and math.max(at, opening), math.max(retry, again or 0)
      part.later = opening and opening - now or math.min(part.window.span, again)
    end
    if not at then
      -- Negative: the opening is unknown, and the gateway asks again after this time.
      later = -math.max(1, math.min(span, retry))
      break
    elseif at > now + horizon then
      later = at - now
      break
    elseif taken >= may then
      later = -math.max(1, horizon)
      break
    end
    taken = taken + 1
    local last = groups[#groups]
    if last and last.at == at then
      last.count = last.count + 1
    else
      groups[#groups + 1] = { at = at, count = 1 }
    end
  end
  local extra = 0
  for _, part in ipairs(parts) do
    local window, slots = part.window, taken * part.cost
    window.held, window.unsettled = window.held + slots, window.unsettled + slots
    if window.in_flight < UNCAPPED then
      window.flying, window.all_flying = window.flying + taken, window.all_flying + taken
    end
    credit_others(window, slots)
    window.waiting = math.max(0, window.waiting - slots)
    if #parts == 1 then
      extra = prefetchable(window, wanted)
      window.held, window.unsettled = window.held + extra, window.unsettled + extra
    end
  end
  push(#groups)
  for _, each in ipairs(groups) do
    push(each.at - now)
    push(each.count)
  end
  push(extra)
  push(later)
  -- For each window, the time for which it keeps the next request back.
  for _, part in ipairs(parts) do
    push(later ~= 0 and part.later or 0)
  end
end

-- Stored windows -------------------------------------------------------------------------------------------------------

for _, window in ipairs(windows) do
  local fields = window.fields
  fields.k, fields.t, fields.n, fields.x = window.kind, whole(window.span), whole(window.settled), whole(window.floor)
  fields.a, fields.o = whole(window.began), whole(window.over)
  fields.m, fields.p = whole(window.mark), whole(window.paused)
  if window.period then fields.c = whole(window.period) .. ':' .. whole(window.till) .. ':' .. window.counted_by end
  local own = { u = window.held, f = window.flying, q = window.waiting }
  for prefix, value in pairs(own) do
    local key = prefix .. ':' .. session
    if value > 0 and (command ~= 'bye' or prefix == 'u') then
      fields[key] = whole(value)
    else
      fields[key] = nil
      window.removed[#window.removed + 1] = key
    end
  end
  if fields['d:' .. session] == nil then window.removed[#window.removed + 1] = 'd:' .. session end
  if window.room - window.unsettled - window.settled > 0 then
    fields.s = fields.s or whole(now)
  else
    fields.s = nil
    window.removed[#window.removed + 1] = 's'
  end
  if #window.removed > 0 then call('HDEL', window.key, unpack(window.removed)) end
  local flat = {}
  for key, value in pairs(fields) do
    flat[#flat + 1] = key
    flat[#flat + 1] = value
  end
  call('HSET', window.key, unpack(flat))
  -- A window with slots or flights of any gateway is reported again within a minute, and is kept for ten.
  local still = window.unsettled + window.all_flying > 0 and 600000 or 60000
  local keep = math.ceil(2 * window.span / 1000) + still
  keep = math.max(keep, math.ceil((math.max(window.paused, window.floor) - now) / 1000) + 60000)
  if window.kind == 'calendar' then keep = keep + math.ceil((math.max(now, window.ends, window.till) - now) / 1000) end
  call('PEXPIRE', window.key, whole(keep))
  call('PEXPIRE', window.log, whole(keep))
end
return answer
