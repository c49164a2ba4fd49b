-- What an event says and how it came stay in staging: they are most of its bytes, and no rule between here and the marts
-- reads them.
with staged as (
    select
        * exclude (raw, text),
        text is not null as has_text
    from {{ ref('int_events_unioned') }}
),

judged as (
    select
        staged.* exclude (reason),
        event_types.weight as type_weight,
        event_types.value_meaning,
        coalesce(
            staged.reason,
            case
                when {{ is_test_user('staged.user_id') }} then 'test_traffic'
                when staged.is_bare_withdrawal then null
                when staged.user_id is null then 'missing_user'
                when event_types.event_type is null then 'unknown_event_type'
                when staged.event_ts is null then 'unusable_time'
                when
                    staged.event_ts < timestamp '{{ var("earliest_event") }}'
                    or staged.event_ts > staged.arrival_hour + interval 25 hours
                    then 'implausible_time'
                when
                    event_types.value_meaning in ('quantity', 'seconds') and event_types.reverses = 'nothing'
                    and (staged.value < 0 or (staged.value = 0 and event_types.value_meaning = 'quantity'))
                    then 'invalid_value'
                when staged.item_id is null and not (event_types.user_text and staged.has_text)
                    then 'missing_item'
            end
        ) as reason
    from staged
    left join {{ ref('event_types') }} as event_types on staged.event_type = event_types.event_type
)

select
    * exclude (type_weight, value_meaning, is_bare_withdrawal, has_text, event_key),
    case when reason is null then event_key end as event_key,
    -- How much an event says of its user's interest.
    cast(case value_meaning
        when 'rating' then type_weight * greatest(coalesce(value, {{ var('rating_max') }}), 0) / {{ var('rating_max') }}
        when 'quantity' then type_weight * (1 + ln(greatest(coalesce(value, 1), 1)))
        when 'seconds' then type_weight * least(coalesce(value / 60, 1), 1)
        else type_weight
    end as double) as weight
from judged
