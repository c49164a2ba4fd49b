with unioned as (
    select * from {{ ref('stg_canonical__events') }}
    union all by name
    select * from {{ ref('stg_online_retail__events') }}
    union all by name
    select * from {{ ref('stg_stackexchange__events') }}
    union all by name
    select * from {{ ref('stg_amazon_reviews__events') }}
    union all by name
    select * from {{ ref('stg_complete_journey__events') }}
),

judged as (
    select
        unioned.* exclude (reason),
        event_types.weight as type_weight,
        event_types.value_meaning,
        coalesce(
            unioned.reason,
            case
                when {{ is_test_user('unioned.user_id') }} then 'test_traffic'
                when unioned.is_bare_withdrawal then null
                when unioned.user_id is null then 'missing_user'
                when event_types.event_type is null then 'unknown_event_type'
                when unioned.event_ts is null then 'unusable_time'
                when
                    unioned.event_ts < timestamp '{{ var("earliest_event") }}'
                    or unioned.event_ts > unioned.arrival_hour + interval 25 hours
                    then 'implausible_time'
                when
                    event_types.value_meaning in ('quantity', 'seconds') and event_types.reverses = 'nothing'
                    and (unioned.value < 0 or (unioned.value = 0 and event_types.value_meaning = 'quantity'))
                    then 'invalid_value'
                when unioned.item_id is null and not (event_types.user_text and unioned.text is not null)
                    then 'missing_item'
            end
        ) as reason
    from unioned
    left join {{ ref('event_types') }} as event_types on unioned.event_type = event_types.event_type
)

select
    * exclude (type_weight, value_meaning, is_bare_withdrawal, event_key),
    case when reason is null then event_key end as event_key,
    -- How much an event says of its user's interest.
    cast(case value_meaning
        when 'rating' then type_weight * greatest(coalesce(value, {{ var('rating_max') }}), 0) / {{ var('rating_max') }}
        when 'quantity' then type_weight * (1 + ln(greatest(coalesce(value, 1), 1)))
        when 'seconds' then type_weight * least(coalesce(value / 60, 1), 1)
        else type_weight
    end as double) as weight
from judged
